import re
import sqlite3
import sys
from dataclasses import replace

import numpy as np
import pytest

from normscope import Recording
from normscope.errors import InputError, RecordError
from normscope.records.recording import rank_path
from normscope.records.recording_header import BINS, Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart, MemoryPart
from normscope.records.store import writer
from planting import plant

STEPS = np.array([1, 2, 4])


def header(**changes):
    layer = LayerInfo(
        name="bn", type="BatchNorm2d", kind="batch", channels=2, eps=1e-5, momentum=0.1, affine=True
    )
    settings = {
        "model": "Net",
        "unit": "forward",
        "intervals": {},
        "layers": [layer],
        "versions": {},
        "device": "cpu",
        **changes,
    }
    return Header(**settings)


def block(layer="bn", **changes):
    """Three steps of one layer with two channels."""
    values = {
        "batch_mean": np.array([[0, 1], [2, 3], [4, 5]], np.float32),
        "batch_var": np.ones((3, 2), np.float32),
        "weight": np.ones((3, 2), np.float32),
        "values_per_channel": np.full(3, 10),
        "training": np.ones(3, np.bool_),
        **changes,
    }
    return STEPS, {(layer, name): array for name, array in values.items()}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "r.sqlite"
    FilePart(path, header()).write(Batch(header(), [block()]))
    return path


class TestQuery:
    def test_values_on_their_steps(self, path):
        recording = Recording.load(path)
        steps, values = recording.query("bn", "batch_mean")
        assert np.array_equal(steps, STEPS)
        assert np.array_equal(values, block()[1]["bn", "batch_mean"])
        assert recording.query("bn", "training")[1].dtype == np.bool_

    def test_between_steps(self, path):
        assert list(Recording.load(path).query("bn", "weight", first=2)[0]) == [2, 4]
        assert list(Recording.load(path).query("bn", "weight", first=2, last=3)[0]) == [2]

    def test_blocks_are_joined_in_the_order_of_their_steps(self, path):
        part = FilePart(path)
        part.write(
            Batch(header(), [(np.array([9, 11]), {("bn", "weight"): np.zeros((2, 2), np.float32)})])
        )
        steps, values = Recording.load(path).query("bn", "weight")
        assert list(steps) == [1, 2, 4, 9, 11]
        assert values.shape == (5, 2)

    def test_names_that_are_not_there(self, path):
        recording = Recording.load(path)
        with pytest.raises(InputError, match="Unknown layer 'bm'. Known: bn"):
            recording.query("bm", "weight")
        with pytest.raises(
            InputError, match="Unknown statistic of bn 'wieght'. Did you mean 'weight'"
        ):
            recording.query("bn", "wieght")
        with pytest.raises(InputError, match="No histograms of the input of bn"):
            recording.distribution("bn", "input")
        with pytest.raises(InputError, match="Unknown side"):
            recording.distribution("bn", "middle")

    @pytest.mark.parametrize("bins", [0, -3, 10**9])
    def test_bins_are_a_number_of_bins(self, path, bins):
        with pytest.raises(InputError, match="bins must be 1 to"):
            Recording.load(path).distribution("bn", bins=bins)

    def test_memory_and_file_are_the_same(self, path):
        part = MemoryPart(header())
        part.write(Batch(header(), [block()]))
        one, two = Recording([part]), Recording.load(path)
        assert one.statistics("bn") == two.statistics("bn")
        for statistic in one.statistics("bn"):
            assert np.array_equal(one.query("bn", statistic)[1], two.query("bn", statistic)[1])


def histogram(values, mean, std, weight=1.0, bias=0.0):
    """(counts [1, 1, BINS + 2], frame [1, 6, 1]) of one channel's values, as a watcher would bin
    them.
    """
    edges = np.concatenate([[-np.inf], np.linspace(-4, 4, BINS + 1), [np.inf]])
    counts, _ = np.histogram((values - mean) / std, edges)
    frame = np.array([mean, std, weight, bias, values.min(), values.max()], np.float32)
    return counts.astype(np.uint16).reshape(1, 1, -1), frame.reshape(1, 6, 1)


class TestDistribution:
    def record(self, *histograms):
        part = MemoryPart(header())
        for step, (counts, frame) in enumerate(histograms, start=1):
            arrays = {("bn", "histogram"): counts, ("bn", "histogram_frame"): frame}
            part.write(Batch(header(), [(np.array([step]), arrays)]))
        return Recording([part])

    def test_the_spread_of_batch_means_survives_merging(self):
        rng = np.random.default_rng(0)
        batches = [rng.normal(mean, 1, 5000) for mean in (0, 20)]
        found = self.record(*(histogram(x, x.mean(), x.std()) for x in batches)).distribution(
            "bn", "input", bins=100
        )
        expected, _ = np.histogram(np.concatenate(batches), found.edges[0])
        assert np.abs(found.counts[0] - expected).sum() < 0.1 * expected.sum()
        assert found.counts[0, 40:50].sum() == pytest.approx(0, abs=1e-6)
        assert (found.density * np.diff(found.edges, axis=1)).sum() == pytest.approx(1)

    def test_a_negative_weight_turns_the_output_round(self):
        values = np.random.default_rng(0).exponential(size=4000)
        found = self.record(
            histogram(values, values.mean(), values.std(), weight=-2.0, bias=5.0)
        ).distribution("bn", "output", bins=30)
        output = -2 * (values - values.mean()) / values.std() + 5
        expected, _ = np.histogram(output, found.edges[0])
        assert found.edges[0, [0, -1]] == pytest.approx([output.min(), output.max()], abs=1e-4)
        assert np.abs(found.counts[0] - expected).sum() < 0.1 * expected.sum()

    @pytest.mark.parametrize("limits", [[[0, 1], [0, 1]], [[2, 1]], [[0, np.inf]], "wide", 3])
    def test_limits_are_a_range_of_each_channel(self, limits):
        values = np.random.default_rng(0).normal(size=100)
        recording = self.record(histogram(values, 0.0, 1.0))
        with pytest.raises(InputError, match="limits must be an array of 1 finite ranges"):
            recording.distribution("bn", limits=limits)

    def test_a_weight_of_zero_makes_a_point(self):
        values = np.random.default_rng(0).normal(size=1000)
        found = self.record(histogram(values, 0.0, 1.0, weight=0.0, bias=3.0)).distribution(
            "bn", "output"
        )
        assert found.counts.sum() == pytest.approx(1000)
        assert found.edges[0, 0] == pytest.approx(3.0, abs=1e-4)

    def test_a_frame_that_is_not_finite_counts_nothing(self):
        values = np.random.default_rng(0).normal(size=1000)
        good, bad = histogram(values, 0.0, 1.0), histogram(values, 0.0, 1.0)
        bad[1][0, 0] = np.nan
        found = self.record(good, bad).distribution("bn", "input")
        assert found.counts.sum() == pytest.approx(1000)

    def test_steps_and_limits_can_be_chosen(self):
        rng = np.random.default_rng(0)
        recording = self.record(*(histogram(rng.normal(m, 1, 1000), m, 1.0) for m in (0, 1, 2)))
        assert list(recording.distribution("bn", "input", first=2).steps) == [2, 3]
        found = recording.distribution("bn", "input", limits=np.array([[-50.0, 50.0]]), bins=10)
        assert found.edges[0, 0] == -50
        with pytest.raises(InputError, match="between steps 7 and None"):
            recording.distribution("bn", "input", first=7)


class TestRanks:
    def write(self, path, rank, **changes):
        part = FilePart(rank_path(path, rank), header(rank=rank, world_size=2))
        part.write(Batch(part.header, [block(**changes)]))

    def test_batch_moments_are_pooled_by_the_number_of_values(self, tmp_path):
        path = tmp_path / "r.sqlite"
        self.write(path, 0)
        self.write(
            path, 1, batch_mean=np.zeros((3, 2), np.float32), values_per_channel=np.full(3, 30)
        )
        recording = Recording.load(path)
        assert recording.ranks == [0, 1]
        mean = recording.query("bn", "batch_mean")[1]
        assert mean[2] == pytest.approx([1.0, 1.25])
        assert recording.query("bn", "batch_var")[1][2] == pytest.approx(
            [1 + 0.25 * 9 + 0.75 * 1, 1 + 0.25 * 3.75**2 + 0.75 * 1.25**2]
        )
        assert recording.query("bn", "batch_mean", rank=0)[1][2] == pytest.approx([4, 5])

    def test_a_missing_part_is_said_and_the_whole_is_not_complete(self, tmp_path):
        path = tmp_path / "r.sqlite"
        for rank in (0, 1):
            self.write(path, rank)
        for rank in (0, 1):
            part = FilePart(rank_path(path, rank))
            part.write(Batch(replace(part.header, complete=True)))
        whole = Recording.load(path)
        assert whole.complete
        assert not whole.notes
        rank_path(path, 1).unlink()
        for recording in (Recording.load(path), Recording.load(path).snapshot()):
            assert not recording.complete
            assert "missing (rank 1)" in recording.notes[0]

    def test_a_part_of_something_else_is_refused(self, tmp_path):
        path = tmp_path / "r.sqlite"
        self.write(path, 0)
        other = header(
            rank=1, world_size=2, layers=[LayerInfo(name="other", type="GroupNorm", kind="group")]
        )
        FilePart(rank_path(path, 1), other)
        with pytest.raises(RecordError, match="not recordings of the same training"):
            Recording.load(path)

    @pytest.mark.parametrize("processes", [{"world_size": 10**15}, {"rank": 3}, {"rank": -1}])
    def test_impossible_processes_are_damage(self, tmp_path, processes):
        with pytest.raises(RecordError, match="of process"):
            FilePart(tmp_path / "r.sqlite", header(**processes))

    @pytest.mark.parametrize("stride", [0, -1, 2**40])
    def test_impossible_channels_are_damage(self, stride):
        layer = LayerInfo(name="bn", type="BatchNorm2d", kind="batch", channel_stride=stride)
        with pytest.raises(RecordError, match="th channel of bn"):
            layer.channel_numbers(4)

    def test_leftovers_of_a_larger_run_are_ignored(self, path):
        FilePart(rank_path(path, 3), header(rank=3, world_size=4))
        assert Recording.load(path).ranks == [0]


class TestMemory:
    def test_old_steps_are_thinned(self):
        part = MemoryPart(header(), limit=1000)
        for start in range(1, 401, 4):
            values = np.arange(start, start + 4, dtype=np.float64)
            part.write(
                Batch(
                    header(), [(np.arange(start, start + 4), {("bn", "weight"): values[:, None]})]
                )
            )
            assert part.nbytes <= 1000
        steps, values = Recording([part]).query("bn", "weight")
        assert np.array_equal(values[:, 0], steps), "values stay with their steps"
        assert steps[0] == 1
        assert steps[-1] == 400
        distances = np.diff(steps)
        assert distances[0] > distances[-1] == 1
        assert any("dropped" in note for note in Recording([part]).notes)


class TestBadFiles:
    def test_no_file(self, tmp_path):
        with pytest.raises(InputError, match="no record at"):
            Recording.load(tmp_path / "none.sqlite")

    def test_no_record(self, tmp_path):
        path = tmp_path / "r.sqlite"
        path.write_bytes(b"GIF89a" * 1000)
        with pytest.raises(RecordError, match="not a normscope record"):
            Recording.load(path)

    def test_a_record_of_a_run(self, tmp_path):
        path = tmp_path / "run.sqlite"
        writer(path, "run").close()
        with pytest.raises(RecordError, match="is a record of a run, not of a recording"):
            Recording.load(path)

    def test_another_version(self, path):
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(RecordError, match="format 99; this normscope reads formats 1 and 2"):
            Recording.load(path)

    def test_a_truncated_file(self, path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(RecordError, match="cannot be read as a record|not a normscope record"):
            Recording.load(path).query("bn", "batch_mean")

    @pytest.mark.parametrize(
        ("statement", "message"),
        [
            ("UPDATE arrays SET shape = '[3, 1000000000]'", "ask for"),
            ("UPDATE arrays SET shape = '[2, 3]'", "3 steps and other values"),
            ("UPDATE arrays SET dtype = '|O8'", "unknown dtype"),
            ("UPDATE arrays SET data = 7", "not a blob"),
            ("UPDATE blocks SET steps = x'00'", "ask for"),
            ("UPDATE blocks SET steps = 'text'", "not a blob"),
        ],
    )
    def test_values_that_lie(self, path, statement, message):
        plant(path, statement)
        with pytest.raises(RecordError, match=message):
            Recording.load(path).query("bn", "batch_mean")

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("header", "[]", "description cannot be read"),
            ("header", '{"model": 3}', "description cannot be read"),
            ("header", "{", "description is not JSON"),
            ("non_finite", "[[1]]", "not finite cannot be read"),
        ],
    )
    def test_descriptions_that_lie(self, path, key, value, message):
        plant(path, ("UPDATE meta SET value = ? WHERE key = ?", value, key))
        with pytest.raises(RecordError, match=message):
            Recording.load(path)

    def test_histograms_of_another_form(self, path):
        arrays = {
            ("bn", "histogram"): np.zeros(1, np.uint16),
            ("bn", "histogram_frame"): np.zeros((1, 2)),
        }
        FilePart(path).write(Batch(header(), [(np.array([1]), arrays)]))
        with pytest.raises(RecordError, match="histogram of bn has the shape"):
            Recording.load(path).distribution("bn")


class TestDataframe:
    def test_is_long(self, path):
        table = Recording.load(path).to_dataframe()
        assert list(table.columns) == ["step", "layer", "statistic", "channel", "value"]
        rows = table[(table.statistic == "batch_mean") & (table.channel == 1)]
        assert rows.value.tolist() == [1, 3, 5]
        assert rows.step.tolist() == [1, 2, 4]
        assert set(table[table.statistic == "training"].channel) == {-1}
        assert set(Recording.load(path).to_dataframe("bn", "weight").statistic) == {"weight"}

    def test_without_pandas_is_one_line(self, path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(InputError, match="needs pandas: pip install pandas"):
            Recording.load(path).to_dataframe()


class TestSummary:
    def summary(self, non_finite=(), **changes):
        part = MemoryPart(header(complete=True))
        part.write(Batch(header(complete=True), [block(**changes)], non_finite=non_finite))
        return Recording([part]).summary()

    def test_a_healthy_layer(self):
        text = self.summary()
        assert "Net: 1 layer," in text
        assert "BatchNorm2d" in text
        assert "Nothing stands out." in text

    def test_no_number_is_broken_at_80_columns(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        wide = np.array([[-0.0123, 0.0456]] * 3, np.float32)
        text = self.summary(weight=wide, bias=wide, batch_mean=wide)
        numbers = re.findall(r"-?\d\S*", text.split("channels")[1])
        assert numbers.count("-0.012") == 3
        assert numbers.count("0.046") == 3

    def test_what_stands_out(self):
        text = self.summary(
            non_finite=[{"layer": "bn", "statistic": "input", "step": 7, "channels": [1]}],
            batch_var=np.array([[1, 0]] * 3, np.float32),
            weight=np.array([[0, 1]] * 3, np.float32),
            running_mean=np.full((3, 2), 50, np.float32),
            num_batches_tracked=np.array([1000, 1001, 1002]),
        )
        assert "bn: input was not finite for the first time at step 7, channels 1." in text
        assert "bn: 1 of 2 channels hardly vary in the batch (1)." in text
        assert "bn: 1 of 2 channels have a weight below 0.001 (0)." in text
        assert "the running mean of 2 of 2 channels" in text

    @pytest.mark.parametrize(("end", "told"), [(30, True), (10, False), (np.nan, False)])
    def test_an_input_that_spreads_out(self, end, told):
        text = self.summary(batch_var=np.array([[1, 1], [end**2] * 2, [end**2] * 2], np.float32))
        assert ("bn: the spread of the input grew 30 times, from 1 to 30 (" in text) == told
        assert ("spread" in text) == told

    def test_running_statistics_that_have_not_settled_are_left_alone(self):
        running_mean = np.array([[50, 50], [50, 50], [49, 49]], np.float32)
        text = self.summary(running_mean=running_mean, num_batches_tracked=np.array([1, 2, 4]))
        assert "Nothing stands out." in text

    def test_a_network_that_was_never_in_train_mode(self):
        assert "every layer was in eval mode at every recorded step" in self.summary(
            training=np.zeros(3, np.bool_)
        )
        assert "Nothing stands out." in self.summary(training=np.array([False, True, False]))

    def test_running_statistics_that_never_move_in_train_mode(self):
        still = {"running_mean": np.zeros((3, 2), np.float32)}
        words = "the running mean never moved in train mode in 1 layer: bn."
        batch_mean = np.array([[0.1, 0], [0.2, 0], [0, 0]], np.float32)
        assert words in self.summary(**still, batch_mean=batch_mean)
        assert "never moved" not in self.summary(**still, batch_mean=0 * batch_mean)
        frozen = np.array([False, False, True])
        assert "never moved" not in self.summary(**still, batch_mean=batch_mean, training=frozen)
        moves = np.array([[0, 0], [0, 0], [1e-6, 0]], np.float32)
        assert "never moved" not in self.summary(running_mean=moves, batch_mean=batch_mean)

    def test_it_answers_first_and_shows_of_many_layers_those_that_stand_out(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "60")
        names = [f"layer{i}.bn" for i in range(40)]
        kind = {"type": "BatchNorm2d", "kind": "batch", "channels": 2}
        infos = [LayerInfo(name=name, **kind) for name in names]
        part = MemoryPart(header(complete=True, layers=infos))
        blocks = [block(name) for name in names]
        blocks[7] = block("layer7.bn", weight=np.array([[0, 1]] * 3, np.float32))
        part.write(Batch(header(complete=True, layers=infos), blocks))
        recording = Recording([part])
        text = recording.summary()
        lines = text.splitlines()
        assert lines[1] == "What stands out:"
        assert max(map(len, lines)) <= 60
        rows = [line.split()[0] for line in lines if ".." in line]
        assert rows == ["layer0.bn", "layer7.bn", "layer39.bn"]
        assert "37 other layers not shown" in text
        assert text.count("BatchNorm2d") == 1, "what all share is said once"
        assert recording.summary(every_layer=True).count(".bn ") >= 40

    def test_a_recording_that_goes_on(self, path):
        assert "The watcher was not closed" in Recording.load(path).summary()
