"""The claims of a study as a family."""

from claim_runs import arms

from normscope.judge.claims import judge_all
from normscope.judge.headline import conclude
from normscope.judge.statistics import LEVEL, holm
from normscope.judge.verdicts import family_sentence


def test_what_stands_among_all_claims_is_marked_and_counted():
    verdicts = judge_all(arms(6, batch={"final": 0.95, "noise": 0.299}))
    members = [verdict for verdict in verdicts if verdict.e is not None]
    assert len(members) > 3
    marked = [verdict for verdict in members if verdict.stands]
    assert "C201" in {verdict.code for verdict in marked}
    least = min(verdict.e for verdict in marked)
    assert least >= len(members) / (LEVEL * len(marked))
    assert all(verdict.outcome != "no difference" for verdict in marked)
    assert [each.family_p for each in members] == holm([each.p for each in members])
    assert all(each.stands is None for each in verdicts if each.e is None)


def test_the_sentence_says_how_many_stand_and_is_there_for_every_reader():
    runs = arms(6, batch={"final": 0.95})
    verdicts = judge_all(runs)
    sentence = family_sentence(verdicts)
    stand = sum(bool(verdict.stands) for verdict in verdicts)
    assert sentence.startswith(f"† {stand} of the ")
    assert conclude(runs).to_json()["headline"][0]["family"] == sentence
    assert family_sentence(judge_all(arms(2))) == ""


def test_claims_that_were_asked_for_are_a_family_of_their_own():
    runs, codes = arms(6, batch={"final": 0.95, "noise": 0.299}), ("C101", "C201")
    asked = judge_all(runs, codes=codes)
    assert tuple(each.code for each in asked) == codes
    assert [each.family_p for each in asked] == holm([each.p for each in asked])
    alike = {each.code: each.e for each in judge_all(runs)}
    assert all(each.e == alike[each.code] for each in asked)
