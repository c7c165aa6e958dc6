"""The page of `normscope explain` runs the network as PyTorch does, and everybody can use it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from report_pages import opening
from torch import nn

from normscope.errors import InputError
from normscope.models.registry import build
from normscope.records.token_explanation import TokenExplanation
from normscope.show.explanation_page.explanation_html import page, write_page, write_token_page
from normscope.studies.page_network import page_images, page_network

CLASSES = ("zero", "</script><b>one", "\u202etwo", "a very long name of a class")


def trained_like(
    seed: int, colours: int, side: int, count: int = 70
) -> tuple[nn.Module, SimpleNamespace]:
    """A network whose statistics, weights and biases are no defaults, and images to run it on."""
    generator = torch.Generator().manual_seed(seed)
    model = build(
        "tiny-cnn", in_channels=colours, num_classes=len(CLASSES), image_size=side, seed=seed
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2.0, generator=generator)
            module.bias.data.normal_(generator=generator)
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.2, 3.0, generator=generator)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, side, side, colours), dtype=np.uint8)
    dataset = SimpleNamespace(
        test_images=images,
        test_labels=rng.integers(0, len(CLASSES), count),
        classes=CLASSES,
        mean=tuple(rng.uniform(0.3, 0.6, colours)),
        std=tuple(rng.uniform(0.2, 0.4, colours)),
    )
    return model.eval(), dataset


def made_page(model, dataset) -> str:
    return page(page_network(model, dataset, seed=3, source="noise", made={"Data": "noise"}))


@pytest.fixture
def opened(tab, tmp_path):
    """Opens a page, whose text is given, as `open_page` does."""
    path = tmp_path / "explanation.html"
    with opening(tab, ready="body[data-ready]") as visit:

        def write_and_visit(text: str, **look):
            path.write_text(text, encoding="utf-8")
            return visit(path, **look)

        yield write_and_visit


def network_inputs(model, dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """The page's images as PyTorch gets them, and their labels."""
    pixels, labels = page_images(model, dataset, seed=3)
    mean, std = (
        torch.tensor(values, dtype=torch.float64) for values in (dataset.mean, dataset.std)
    )
    images = (torch.from_numpy(pixels).double() / 255 - mean) / std
    return images.permute(0, 3, 1, 2), torch.from_numpy(labels)


@pytest.mark.parametrize(("colours", "side"), [(1, 8), (3, 32), (3, 11)])
def test_the_page_computes_what_pytorch_computes(opened, colours, side):
    model, dataset = trained_like(5, colours, side)
    view = opened(made_page(model, dataset))
    reference = model.double()
    images, labels = network_inputs(model, dataset)
    trained = {name: value.clone() for name, value in reference.state_dict().items()}
    for training in (False, True):
        for size in (1, 2, 8, 32):
            reference.load_state_dict(trained)
            reference.train(training)
            with torch.no_grad():
                batches = [reference.classify(batch).softmax(1) for batch in images.split(size)]
            expected = torch.cat(batches)
            got = view.evaluate(
                """([size, training]) => {
                  network.restore();
                  const options = {training, momentum: training ? DATA.momentum : 0};
                  const rows = [...inBatches(everyImage, size)].flatMap((ids) =>
                    network.forward(images.batch(ids), options).probabilities);
                  const state = network.norms.map(({mean, variance}) => [[...mean], [...variance]]);
                  network.restore();
                  const accuracy = accuracyOf(network, images, everyImage, size, {training});
                  return {rows, state, accuracy};
                }""",
                [size, training],
            )
            np.testing.assert_allclose(got["rows"], expected.numpy(), atol=2e-5)
            assert got["accuracy"] == (expected.argmax(1) == labels).double().mean().item()
            for stage, (mean, variance) in zip(reference.stages, got["state"], strict=True):
                np.testing.assert_allclose(mean, stage[1].running_mean.numpy(), atol=2e-5)
                np.testing.assert_allclose(variance, stage[1].running_var.numpy(), rtol=2e-5)


def test_bfloat16_is_rounded_as_pytorch_rounds_it(opened):
    view = opened(made_page(*trained_like(1, 1, 8)))
    values = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 100
    got = view.evaluate("(values) => values.map(toBfloat16)", values.tolist())
    assert got == values.bfloat16().float().tolist()


def test_a_page_of_colour_images_is_below_300_kb():
    assert len(made_page(*trained_like(2, 3, 32, count=400)).encode()) < 300_000


def test_every_experiment_answers(opened):
    view = opened(made_page(*trained_like(4, 1, 8)), width=390)
    for button in view.query_selector_all(".controls button, #layer-maps button:nth-child(3n)"):
        button.click()
    for choice in view.query_selector_all("#predict input"):
        choice.check()
    for said in view.query_selector_all(".say, .question p"):
        assert len(said.inner_text()) > 20
    assert view.locator("#break-remedy").inner_text().startswith("NS")
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")


OVERLAPS = """() => [...document.querySelectorAll('svg')].flatMap((svg) => {
  const texts = [...svg.querySelectorAll('text')].map((each) => [each.textContent, each.getBBox()]);
  return texts.flatMap(([one, a], k) => texts.slice(k + 1)
    .filter(([, b]) => Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x) > 1
      && Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y) > 4)
    .map(([other]) => [svg.id, one, other]));
})"""


def test_no_label_covers_another_however_many_settings_were_tried(opened):
    view = opened(made_page(*trained_like(4, 1, 8)))
    for order in (False, True):
        view.set_checked("#forget-sorted", order)
        for size in (7, 6, 3, 3):
            view.locator("#forget-size").fill(str(size))
            view.click("#forget-run")
    view.click("#memory-run")
    for bias in (3, -3, 0):
        view.locator("#affine-bias").fill(str(bias))
        assert view.evaluate(OVERLAPS) == []
    right = "(svg) => Math.max(...[...svg.querySelectorAll('text')].map((t) => t.getBBox().x))"
    assert view.locator("#forget-plot").evaluate(right) < 560


def test_eval_mode_ignores_the_company_and_train_mode_does_not(opened):
    view = opened(made_page(*trained_like(6, 1, 8)))
    shares = {}
    for mode in ("train", "eval"):
        view.check(f"input[value={mode}]")
        sentences = set()
        for _ in range(12):
            view.click("#follow-next")
            sentences.add(view.locator("#follow-bars").get_attribute("aria-label"))
        shares[mode] = len(sentences)
    assert shares["eval"] == 1
    assert shares["train"] > 1


def test_axe_finds_nothing_in_light_and_dark(opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    view = opened(made_page(*trained_like(4, 1, 8)))
    view.click("#memory-run")
    view.click("#forget-run")
    for scheme in ("light", "dark"):
        view.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(view, options={"resultTypes": ["violations"]}).response["violations"]
        assert not [(item["id"], [node["html"] for node in item["nodes"]]) for item in found]


def test_the_keyboard_reaches_every_control(opened):
    view = opened(made_page(*trained_like(4, 1, 8)))
    view.focus("#follow-next")
    before = view.locator("#follow-bars").get_attribute("aria-label")
    for _ in range(10):
        view.keyboard.press("Enter")
    assert view.locator("#follow-bars").get_attribute("aria-label") != before
    unreachable = view.evaluate(
        "[...document.querySelectorAll('button, input, select, a')]"
        ".filter((element) => element.tabIndex < 0).length"
    )
    assert unreachable == 0


def test_names_from_the_data_stay_text(opened):
    view = opened(made_page(*trained_like(4, 1, 8)))
    assert view.evaluate("document.querySelectorAll('b').length > 0")
    assert not view.evaluate(
        "[...document.querySelectorAll('b')].some((e) => e.innerHTML === 'one')"
    )


def test_another_file_is_not_replaced(tmp_path):
    path = tmp_path / "explanation.html"
    path.write_text("mine")
    model, dataset = trained_like(4, 1, 8)
    with pytest.raises(InputError, match="was kept"):
        write_page(page_network(model, dataset, seed=0, source="x", made={}), path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("kind", ["layer", "rms", "erf"])
def test_the_page_of_tokens_computes_what_the_layer_does(kind, opened, tmp_path):
    rng = np.random.default_rng(3)
    explanation = TokenExplanation(
        layer="<b>norm", layer_type="LayerNorm", kind=kind, eps=1e-6, alpha=0.7, shift=0.2,
        x=rng.normal(size=(2, 5, 6)).astype(np.float32), gain=rng.normal(size=6),
        gain_is_offset=False, bias=None if kind == "rms" else rng.normal(size=6), token=(0, 3),
        channel=2, names=("a", "\\n", "<", "$", "e"), disagreement=1e-7, between_modes=0.0,
        alone=0.0, meta={"spec": {"model": "byte-lm", "data": "</script><b>text", "epochs": 1}},
    )  # fmt: skip
    write_token_page(explanation, {"Data": "</script><b>text"}, tmp_path / "page.html")
    view = opened((tmp_path / "page.html").read_text(), width=390)
    token = explanation.x[0, 3].astype(float)
    found = view.evaluate("output(DATA.tokens[3].map((value) => 2 * value + 1))")
    np.testing.assert_allclose(found, explanation.output(2 * token + 1), atol=1e-5)
    view.locator("#move").fill("2")
    verdict = "undone the change" if kind == "layer" else "goes through"
    view.wait_for_function(f"byId('say').textContent.includes('{verdict}')", timeout=60_000)
    assert view.evaluate("document.documentElement.scrollWidth") == 390
    assert view.locator("#token option").all_inner_texts() == ["0 a", "1 \\n", "2 <", "3 $", "4 e"]
