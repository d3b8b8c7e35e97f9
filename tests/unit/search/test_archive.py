"""The archive: what it was told is there, whatever happened to the process that told it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_problem import TableEvaluator, problem

from hwnas.errors import BusyError, DiskError, FormatError, MissingExtraError, NotFoundError, UsageError
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded, Evaluation

A, B, C = (0, 0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0, 0), (3, 3, 3, 3, 3, 3, 3)


def evaluations(*genotypes):
    return TableEvaluator().evaluate(genotypes)


class TestTrials:
    def test_they_come_back_as_they_went_in(self, path):
        """Floats to the last bit, sources, failures, generation and epoch."""
        failed = Evaluation(genotype=C, failure="does not build: too deep")
        with Archive.open(path) as archive:
            archive.add(evaluations(A, B), generation=1, epoch=0)
            archive.add([failed], generation=2, epoch=0)
            before = archive.trials()
        with Archive.open(path) as archive:
            assert archive.trials() == before
        assert [t.id for t in before] == [1, 2, 3]
        assert [t.evaluation for t in before] == [*evaluations(A, B), failed]
        assert [t.generation for t in before] == [1, 1, 2]

    @given(
        st.dictionaries(
            st.sampled_from(["latency", "accuracy"]), st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3).map(sorted)
        ),
        st.text(),
    )
    def test_any_evaluation_survives_the_database(self, metrics, text):
        """Including the smallest and largest floats and all of Unicode that SQLite takes."""
        evaluation = Evaluation(
            genotype=A,
            metrics={name: Bounded(v, low, high) for name, (low, v, high) in metrics.items()},
            source={"latency": text},
            failure=text.encode(errors="ignore").decode().replace("\0", ""),
        )
        with Archive.open(":memory:") as archive:
            archive.add([evaluation], generation=1, epoch=0)
            archive._trials = None  # forget what was just said, so that it is read
            (trial,) = archive.trials()
            assert trial.evaluation == evaluation

    def test_the_latest_epoch_is_what_is_known(self, path):
        """An estimate that changed is a new trial; the old one stays on record."""
        old, new = evaluations(A)[0], Evaluation(genotype=A, metrics={"latency": Bounded.exact(9.0), "accuracy": Bounded.exact(0.1)})
        with Archive.open(path) as archive:
            archive.add([old], generation=1, epoch=0)
            archive.add(evaluations(B), generation=1, epoch=0)
            archive.add([new], generation=1, epoch=1)
            assert archive.latest() == {A: new, B: evaluations(B)[0]}
            assert list(archive.latest()) == [A, B]
            assert archive.find(A, 0).evaluation == old
            assert archive.find(A, 2) is None
            assert [e.genotype for e in archive.front(problem())] == [B]

    def test_it_can_be_seen_as_it_was(self, path):
        """Within `as_of`, later trials are out of sight, and in sight again afterwards."""
        with Archive.open(path) as archive:
            archive.add(evaluations(A, B), generation=1, epoch=0)
            archive.add(evaluations(C), generation=2, epoch=0)
            with archive.as_of(2):
                assert list(archive.latest()) == [A, B]
                assert C not in [e.genotype for e in archive.front(problem())]
            assert list(archive.latest()) == [A, B, C]

    def test_a_network_has_one_trial_an_epoch(self, path):
        """Recording it again is an error, and leaves the rest of that batch out as well."""
        with Archive.open(path) as archive:
            archive.add(evaluations(A), generation=1, epoch=0)
            with pytest.raises(BusyError, match="UNIQUE"):
                archive.add(evaluations(B, A), generation=2, epoch=0)
            assert list(archive.latest()) == [A]
            archive.add(evaluations(B), generation=2, epoch=0)
            assert [t.id for t in archive.trials()] == [1, 2]

    def test_generations_can_be_forgotten(self, path):
        """From one on; numbering continues where it was then."""
        with Archive.open(path) as archive:
            for generation, genotype in enumerate((A, B, C), 1):
                archive.add(evaluations(genotype), generation=generation, epoch=0)
            archive.forget(2)
            archive.add(evaluations(C), generation=2, epoch=0)
            assert [(t.id, t.evaluation.genotype) for t in archive.trials()] == [(1, A), (2, C)]


class TestResults:
    def test_a_result_is_computed_once(self, path):
        """Also across processes: what is on record is not computed again, and comes back in the same form."""
        calls = []

        def compute():
            calls.append(1)
            return {"accuracy": np.float64(0.9), "curve": (0.1, 0.5), "seen": np.arange(2)}

        plain = {"accuracy": 0.9, "curve": [0.1, 0.5], "seen": [0, 1]}
        with Archive.open(path) as archive:
            assert archive.remember("training", A, "recipe/1", compute) == plain
            assert archive.remember("training", A, "recipe/1", compute) == plain
        with Archive.open(path) as archive:
            assert archive.remember("training", A, "recipe/1", compute) == plain
        assert len(calls) == 1

    def test_kind_genotype_and_variant_tell_results_apart(self, path):
        """Another recipe, another network or another kind is another result."""
        with Archive.open(path) as archive:
            archive.record("training", A, "recipe/1", 1, 0.5)
            assert archive.result("training", A, "recipe/1") == 1
            assert archive.result("training", A, "recipe/2") is None
            assert archive.result("training", B, "recipe/1") is None
            assert archive.result("measurement", A, "recipe/1") is None

    def test_a_failed_computation_leaves_nothing_behind(self, path):
        """The next attempt computes."""
        with Archive.open(path) as archive:
            with pytest.raises(KeyboardInterrupt):
                archive.remember("training", A, "", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
            assert archive.remember("training", A, "", lambda: 7) == 7

    def test_costs_add_up_by_kind(self, path):
        """Recording a result again replaces it and adds what it cost."""
        with Archive.open(path) as archive:
            archive.record("training", A, "", 1, 2.0)
            archive.record("training", B, "", 1, 3.0)
            archive.record("training", A, "", 2, 4.0)
            archive.record("measurement", A, "", 1, 0.5)
            assert archive.cost() == {"measurement": 0.5, "training": 9.0}
            assert archive.result("training", A) == 2
            assert [(r.genotype, r.payload, r.seconds) for r in archive.results("training")] == [(A, 2, 6.0), (B, 1, 3.0)]

    def test_the_time_that_a_computation_took_is_recorded(self, path):
        """Real time, in seconds."""
        with Archive.open(path) as archive:
            archive.remember("export", A, "", lambda: sum(range(10**5)))
            assert 0 < archive.cost()["export"] < 10

    def test_an_unknown_kind_is_refused(self, path):
        """With the nearest known one."""
        with Archive.open(path) as archive:
            for use in (lambda: archive.result("trainings", A), lambda: archive.results("trainings")):
                with pytest.raises(UsageError, match="did you mean 'training'"):
                    use()

    def test_what_json_cannot_say_is_refused(self, path):
        """Before anything is written; `None` could not be told from nothing."""
        with Archive.open(path) as archive:
            with pytest.raises(TypeError, match="Path is not among it"):
                archive.record("export", A, "", Path("model.onnx"), 0.0)
            with pytest.raises(ValueError, match="is None"):
                archive.remember("export", A, "", lambda: None)


class TestIdentity:
    def test_a_different_run_is_refused_by_name(self, path):
        """Every difference is named with both values."""
        with Archive.open(path) as archive:
            archive.bind({"seed": "1", "space": "toy"})
            archive.bind({"seed": "1", "predictor": "abc"})
            with pytest.raises(UsageError, match=r"was made with seed '1' \(now '2'\), predictor 'abc' \(now 'x'\); resume it with"):
                archive.bind({"seed": "2", "space": "toy", "predictor": "x"})

    def test_notes_are_kept_and_replaced(self, path):
        """The last word counts."""
        with Archive.open(path) as archive:
            archive.note("command", "hwnas search")
            archive.note("versions", {"hwnas": "0.1.0"})
            archive.note("command", "hwnas search --seed 1")
        with Archive.open(path, readonly=True) as archive:
            notes = archive.notes()
        assert notes["command"] == "hwnas search --seed 1"
        assert notes["versions"] == {"hwnas": "0.1.0"}


class TestOpening:
    def test_two_writers_exclude_each_other_and_readers_nobody(self, path):
        """A report may be written while the search goes on, and sees what was committed since."""
        with Archive.open(path) as writer:
            writer.add(evaluations(A), generation=1, epoch=0)
            with pytest.raises(BusyError, match=f"'{path}' is being written by another process"):
                Archive.open(path)
            with Archive.open(path, readonly=True) as reader:
                assert list(reader.latest()) == [A]
                writer.add(evaluations(B), generation=2, epoch=0)
                assert list(reader.latest()) == [A, B]
                with reader._transaction() as connection:
                    assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"

    def test_a_reader_writes_nothing(self, path):
        """Trying to is an error."""
        Archive.open(path).close()
        with Archive.open(path, readonly=True) as reader, pytest.raises(DiskError, match="readonly"):
            reader.note("x", 1)

    def test_reading_what_is_not_there(self, path):
        """Nothing is made."""
        with pytest.raises(NotFoundError, match=f"no run at '{path}'"):
            Archive.open(path, readonly=True)
        assert not path.exists()

    def test_an_unknown_format_says_what_to_do(self, path):
        """A file from a newer hwnas is neither misread nor overwritten."""
        Archive.open(path).close()
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE meta SET value = '2' WHERE key = 'format'")
        connection.close()
        for readonly in (False, True):
            with pytest.raises(FormatError, match="has format 2, and this hwnas reads format 1; use the version that wrote it"):
                Archive.open(path, readonly=readonly)

    @pytest.mark.parametrize("readonly", [False, True])
    def test_what_is_no_database_is_a_format_error(self, path, readonly):
        """A damaged file is left as it is."""
        path.write_bytes(b"not a database" * 1000)
        with pytest.raises(FormatError, match="damaged"):
            Archive.open(path, readonly=readonly)
        assert path.read_bytes() == b"not a database" * 1000

    def test_a_truncated_database_is_a_format_error(self, path):
        """Half a copy."""
        with Archive.open(path) as archive:
            for i in range(200):
                archive.record("proxies", (i, 0, 0, 0, 0, 0, 0), "", "x" * 100, 0.0)
        path.write_bytes(path.read_bytes()[: 4096 * 3])
        with pytest.raises(FormatError, match="damaged"), Archive.open(path) as archive:
            archive.results("proxies")

    def test_somebody_elses_database_is_left_alone(self, path):
        """It is named as what it is."""
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE cats (name TEXT)")
        connection.close()
        with pytest.raises(FormatError, match="no archive of hwnas"):
            Archive.open(path)

    def test_an_archive_whose_making_was_cut_off_is_made_to_the_end(self, path):
        """A kill between the first table and the format number."""
        Archive.open(path).close()
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM meta")
            connection.execute("DROP TABLE results")
        connection.close()
        with pytest.raises(FormatError, match="cut off"):
            Archive.open(path, readonly=True)
        with Archive.open(path) as archive:
            archive.record("proxies", A, "", 1, 0.0)

    def test_urls(self, path):
        """An SQLite URL is its file, lock included; other databases need their driver; nonsense is a usage error."""
        with Archive.open(f"sqlite:///{path}") as archive:
            archive.note("x", 1)
            with pytest.raises(BusyError):
                Archive.open(path)
        with pytest.raises(MissingExtraError, match="needs the driver 'psycopg'; run: pip install psycopg"):
            Archive.open("postgresql+psycopg://user@localhost/hwnas")
        with pytest.raises(UsageError, match="no database URL"):
            Archive.open("nonsense://x")

    def test_odd_file_names(self, tmp_path):
        """Nothing in a name is taken for part of a URL."""
        path = tmp_path / "run ?mode=ro #1%20.sqlite"
        with Archive.open(path) as archive:
            archive.note("x", 1)
        assert path.is_file()


class TestMishaps:
    def test_a_full_disk_is_one_line_and_loses_nothing(self, path):
        """What was recorded before stays, and when there is space again the run goes on."""
        with Archive.open(path) as archive:
            archive.record("proxies", A, "", 1, 0.0)
            with archive._transaction() as connection:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
            with pytest.raises(DiskError, match=r"disk is full\); check space and permissions, then resume") as caught:
                archive.record("training", A, "", "x" * 10**6, 0.0)
            assert "\n" not in str(caught.value)
            assert archive.result("proxies", A) == 1
            assert archive.result("training", A) is None
            with archive._transaction() as connection:
                connection.exec_driver_sql("PRAGMA max_page_count=1000000")
            archive.record("training", A, "", "x" * 10**6, 0.0)
            assert archive.result("training", A) == "x" * 10**6

    def test_a_folder_that_cannot_be_written(self):
        """One line, with the remedy."""
        with pytest.raises(DiskError, match="cannot be written"):
            Archive.open("/proc/run.sqlite")

    def test_an_interrupted_write_is_there_or_not(self, path, monkeypatch):
        """Ctrl-C right after the commit: the archive looks again instead of trusting what it remembers."""
        with Archive.open(path) as archive:
            archive.trials()
            transaction = archive._transaction

            class Interrupted:
                def __enter__(self):
                    self.inner = transaction()
                    return self.inner.__enter__()

                def __exit__(self, *args):
                    self.inner.__exit__(*args)
                    raise KeyboardInterrupt

            monkeypatch.setattr(archive, "_transaction", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                archive.add(evaluations(A), generation=1, epoch=0)
            monkeypatch.undo()
            assert list(archive.latest()) == [A]
            archive.add(evaluations(B), generation=1, epoch=0)
            assert [t.id for t in archive.trials()] == [1, 2]

    @pytest.mark.process
    def test_kill_minus_nine_loses_nothing_that_was_recorded(self, path):
        """A process is killed in the middle of a loop of writes: everything it had been told is written is there, all of it whole."""
        script = f"""
import sys
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded, Evaluation
archive = Archive.open({str(path)!r})
for i in range(10**6):
    archive.add([Evaluation(genotype=(i, j), metrics={{"latency": Bounded.exact(i + 0.1)}}) for j in range(5)], generation=i, epoch=0)
    archive.record("training", (i,), "recipe", {{"curve": [i] * 50}}, 0.25)
    print(i, flush=True)
"""
        writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        try:
            while int(writer.stdout.readline()) < 40:
                pass
        finally:
            writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate()
        last = max([40, *map(int, rest.split("\n")[:-1])])
        assert writer.returncode == -signal.SIGKILL
        with Archive.open(path) as archive:
            trials = archive.trials()
            assert len(trials) >= 5 * (last + 1)
            assert len(trials) % 5 == 0, "a batch is there as a whole or not at all"
            assert all(t.evaluation.metrics["latency"].value == t.evaluation.genotype[0] + 0.1 for t in trials)
            trained = archive.results("training")
            assert len(trained) >= last + 1
            assert all(r.payload == {"curve": [r.genotype[0]] * 50} for r in trained)
            archive.record("training", A, "", 1, 0.0)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
    def test_a_read_only_folder(self, path):
        """Reading works, writing is one line."""
        Archive.open(path).close()
        path.parent.chmod(0o555)
        try:
            with Archive.open(path, readonly=True) as archive:
                assert archive.trials() == ()
            with pytest.raises(DiskError):
                Archive.open(path.parent / "other.sqlite")
        finally:
            path.parent.chmod(0o755)


@pytest.mark.parametrize("number", [1])
def test_every_format_ever_written_is_read(number, path):
    """A sample of each is kept in tests/formats; it also goes on being written."""
    path.write_bytes((Path(__file__).parents[2] / "formats" / f"archive-{number}.sqlite").read_bytes())
    with Archive.open(path, readonly=True) as archive:
        assert archive.notes()["run"] == {"space": "toy", "seed": "0"}
        assert [(t.id, t.generation, t.epoch, t.evaluation.genotype) for t in archive.trials()] == [
            (1, 1, 0, (0, 1)),
            (2, 1, 0, (1, 1)),
            (3, 1, 1, (0, 1)),
        ]
        assert archive.latest()[0, 1].metrics == {"latency": Bounded(0.003, 0.0028, 0.0031), "accuracy": Bounded.exact(0.8)}
        assert archive.latest()[1, 1].failure == "does not build"
        assert archive.result("training", (0, 1), "recipe/0") == {"curve": [0.5, 0.8]}
        assert archive.cost() == {"training": 12.5}
    with Archive.open(path) as archive:
        archive.add(evaluations(A), generation=2, epoch=1)
        assert archive.trials()[-1].id == 4
