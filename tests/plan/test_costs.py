"""What a plan will cost: closed forms on made records, a second way to play a plan through, records that come and go."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from camflow import cli
from camflow.errors import ConfigError
from camflow.plan import forecast, gallery, records
from camflow.plan.costs import HERE, OTHER, SAME, Job, estimate, sum_up, wall_seconds
from camflow.plan.records import Record, Work, work_of

RULES = Path(__file__).resolve().parents[2] / "workflow/rules"
CONFIG = {
    "recipes": ["parts/plain/cam/crf"],
    "datasets": {
        "parts": {"format": "parts", "train": 40, "val": 6},
        "more": {"format": "parts", "train": 400, "val": 6},
        "photos": {"format": "voc", "root": "photos", "classes": ["cat", "dog"], "masks": []},
    },
    "classifiers": {
        "plain": {"method": "plain", "backbone": "tiny", "weights": "none", "epochs": 3},
        "longer": {"method": "plain", "backbone": "tiny", "weights": "none", "epochs": 30, "seed": 5},
        "wide": {"method": "plain", "backbone": "tiny", "width": 64, "weights": "none"},
        "deep": {"method": "plain", "backbone": "resnet50", "weights": "none"},
    },
    "localizers": {"cam": {"method": "cam", "scales": [1.0]}, "cams": {"method": "cam", "scales": [1.0, 2.0]}},
    "refiners": {"crf": {"method": "crf"}},
}
CRF = Work("refine_crf", "parts", "aaaa", (), 50.0, grows=True)
CRF_RECORD = Record(
    CRF, seconds=105.0, stage=100.0, cpu=150.0, threads=2, gpus=0, size=5000, peak_mb=500.0, device="cpu"
)
TRAIN = Work("train_plain", "parts", "bbbb", ("tiny",), 40.0, epochs=5)
TRAIN_RECORD = Record(
    TRAIN, seconds=30.0, stage=20.0, cpu=18.0, threads=1, gpus=1, size=700, peak_mb=900.0, device="card"
)


def job(work: Work | None, **more) -> Job:
    return Job(id=1, rule=work.rule if work else "view", run=True, work=work, **more)


# --- one job ---------------------------------------------------------------------------------------------------------


def test_time_is_the_start_and_the_stage_by_images_and_cores():
    # 2 cores spent 100 s on 50 images, so 4 core-seconds an image, after 5 s of start.
    found = estimate(job(replace(CRF, images=200.0), threads=4), [CRF_RECORD])
    assert found.seconds == pytest.approx(5 + 4 * 200 / 4)
    assert found.size == pytest.approx(5000 / 50 * 200)  # what is kept image by image


def test_training_grows_with_epochs_and_its_network_does_not():
    # One GPU spent 20 s on 40 images x 5 epochs, so 0.1 s a pass, after 10 s of start.
    found = estimate(job(replace(TRAIN, images=100.0, epochs=8), threads=16, gpus=2), [TRAIN_RECORD])
    assert found.seconds == pytest.approx(10 + 0.1 * 100 * 8 / 2)  # spread over GPUs, not cores
    assert found.size == 700


def test_several_runs_are_pooled():
    second = replace(CRF_RECORD, work=replace(CRF, images=150.0), seconds=307.0, stage=300.0, threads=1, size=9000)
    found = estimate(job(replace(CRF, images=10.0), threads=1), [CRF_RECORD, second])
    assert found.seconds == pytest.approx((5 + 7) / 2 + (100 * 2 + 300 * 1) / (50 + 150) * 10)
    assert found.size == pytest.approx((5000 + 9000) / (50 + 150) * 10)
    assert found.records == (CRF_RECORD, second)
    assert found.stretch == pytest.approx(10 / 150)


def test_what_no_number_of_images_changes_costs_the_same_again():
    fixed = replace(CRF, images=None, grows=False)
    found = estimate(job(fixed, threads=2), [replace(CRF_RECORD, work=fixed)])
    assert found.seconds == pytest.approx(105)
    assert found.size == 5000


def test_the_most_alike_runs_decide():
    slow = {tier: replace(CRF_RECORD, stage=factor * 100.0) for tier, factor in ((HERE, 1), (SAME, 3), (OTHER, 9))}
    slow[SAME] = replace(slow[SAME], work=replace(CRF, dataset="voc"))
    slow[OTHER] = replace(slow[OTHER], work=replace(CRF, settings="cccc"))
    known = list(slow.values())
    for tier in (HERE, SAME, OTHER):
        found = estimate(job(CRF, threads=2), known)
        assert found.tier == tier and found.records == (slow[tier],)
        known.remove(slow[tier])
    assert estimate(job(CRF), known) is None


@pytest.mark.parametrize(
    "other",
    [
        {"work": replace(TRAIN, rule="train_seam")},
        {"work": replace(TRAIN, networks=("resnet50",))},
        {"gpus": 0},
        {"work": replace(TRAIN, images=None)},
        {"work": replace(TRAIN, images=0.0)},
    ],
    ids=["rule", "network", "device", "law", "nothing done"],
)
def test_no_number_comes_from_jobs_that_do_not_compare(other):
    assert estimate(job(TRAIN, gpus=1), [TRAIN_RECORD]) is not None
    assert estimate(job(TRAIN, gpus=1), [replace(TRAIN_RECORD, **other)]) is None


def test_no_number_without_a_number_of_images():
    assert estimate(job(replace(CRF, images=None, known=False)), [CRF_RECORD]) is None


# --- a whole plan ----------------------------------------------------------------------------------------------------


def test_sums_by_rule():
    jobs = [
        Job(1, "check_dataset", run=False, stored=300, work=replace(CRF, rule="check_dataset")),
        Job(2, "refine_crf", run=True, threads=2, needs=(1,), work=CRF),
        Job(3, "refine_crf", run=True, threads=2, needs=(1,), work=replace(CRF, images=100.0)),
        Job(4, "train_plain", run=True, gpus=1, needs=(2, 3), work=TRAIN),
        Job(5, "localize_cam", run=True, needs=(4,), work=replace(CRF, rule="localize_cam")),
        Job(6, "view", run=True, needs=(5,), measured=False),
    ]
    found = sum_up(jobs, [CRF_RECORD, TRAIN_RECORD], cores=2, gpus=1)
    assert [stage.rule for stage in found.stages] == [
        "check_dataset",
        "refine_crf",
        "train_plain",
        "localize_cam",
        "view",
    ]
    check, crf, train, cam, view = found.stages
    assert (check.cached, check.run, check.stored) == (1, 0, 300)
    assert crf.core_seconds == pytest.approx(2 * (105 + 205)) and crf.new == pytest.approx(15000)
    assert (train.core_seconds, train.gpu_seconds) == (30, 30)
    assert (cam.run, cam.unknown, cam.core_seconds) == (1, 1, 0)
    assert (view.run, view.unknown) == (1, 0)  # not measured, so nothing is missing
    assert found.unknown == 1
    assert found.wall_seconds == pytest.approx(105 + 205 + 30)  # both CRFs want both cores


@pytest.mark.parametrize(("count", "cores", "gpus", "each"), [(7, 3, 0, 0), (4, 4, 1, 1), (6, 8, 2, 1), (5, 1, 0, 0)])
def test_equal_jobs_go_in_rounds(count, cores, gpus, each):
    jobs = [Job(n, "rule", run=True, gpus=each) for n in range(count)]
    rounds = -(-count // min(cores, gpus if each else cores))
    assert wall_seconds(jobs, dict.fromkeys(range(count), 10.0), cores, gpus) == 10 * rounds


def test_a_job_for_more_than_there_is_runs_alone():
    jobs = [Job(0, "wide", run=True, threads=9), Job(1, "two cards", run=True, gpus=2), Job(2, "one", run=True)]
    assert wall_seconds(jobs, {0: 1.0, 1: 2.0, 2: 4.0}, cores=2, gpus=1) == 5
    assert wall_seconds(jobs, {0: 1.0, 1: 2.0, 2: 4.0}, cores=1, gpus=0) == 7
    assert wall_seconds([], {}, cores=1, gpus=0) == 0


def clock_by_clock(jobs, seconds, cores, gpus):
    """The same rule second by second: of those that fit, the longest first; jobs on GPUs before the others."""
    left, done, running = {job.id: job for job in jobs}, set(), {}
    for now in itertools.count():
        for number in [n for n, end in running.items() if end == now]:
            done.add(number)
            del running[number]
        if not left and not running:
            return now
        waiting = [job for job in left.values() if {n for n in job.needs if n in seconds} <= done]
        for item in sorted(waiting, key=lambda job: (job.gpus == 0, -seconds[job.id], job.id)):
            busy = [next(job for job in jobs if job.id == n) for n in running]
            if (
                sum(job.threads for job in busy) + item.threads <= cores
                and sum(job.gpus for job in busy) + item.gpus <= gpus
            ):
                running[item.id] = now + seconds[item.id]
                del left[item.id]


@pytest.mark.parametrize("seed", range(25))
def test_playing_a_plan_through_by_events_and_second_by_second(seed):
    rng = random.Random(seed)
    jobs = [
        Job(n, "rule", run=True, threads=rng.randint(1, 3), gpus=rng.choice([0, 0, 1]),
            needs=tuple(rng.sample(range(n), min(n, rng.randint(0, 2)))))
        for n in range(14)
    ]  # fmt: skip
    seconds = {item.id: rng.randint(1, 9) for item in jobs}
    found = wall_seconds(jobs, seconds, cores=3, gpus=1)
    assert found == clock_by_clock(jobs, seconds, cores=3, gpus=1)
    assert found >= sum(seconds[item.id] * item.threads for item in jobs) / 3


# --- records ---------------------------------------------------------------------------------------------------------


def leave(folder: Path, name: str, record: Record, output: Path) -> Path:
    output.write_bytes(b"x" * record.size)
    path = folder / f"{name}.json"
    records.leave(
        path,
        record.work,
        stage=record.stage,
        cpu=record.cpu,
        threads=record.threads,
        gpus=record.gpus,
        outputs=[str(output)],
    )
    path.with_suffix(".tsv").write_text(f"s\th:m:s\tmax_rss\n{record.seconds}\t0:01:45\tNA\n")
    return path


def essence(record: Record) -> Record:
    """Without what the machine that runs the test adds."""
    return replace(record, peak_mb=0.0, device="")


def test_a_record_comes_back_and_can_be_carried(tmp_path):
    leave(tmp_path / "here", "a", CRF_RECORD, tmp_path / "a.h5")
    leave(tmp_path / "here/deep", "b", TRAIN_RECORD, tmp_path / "b.pt")
    known = records.load([tmp_path / "here"])
    assert sorted(map(essence, known), key=str) == sorted(map(essence, [CRF_RECORD, TRAIN_RECORD]), key=str)
    assert all(item.peak_mb > 1 and item.device for item in known)

    assert records.save(known, tmp_path / "all.jsonl") == 2
    assert records.load([tmp_path / "all.jsonl"]) == known
    assert records.load([tmp_path / "all.jsonl", tmp_path / "here"]) == known  # each once


def test_halves_of_a_record_and_other_files_are_passed_over(tmp_path):
    whole = leave(tmp_path, "whole", CRF_RECORD, tmp_path / "a.h5")
    for name in ("no time", "no description", "torn", "torn time", "foreign"):
        leave(tmp_path, name, CRF_RECORD, tmp_path / "a.h5")
    (tmp_path / "no time.tsv").unlink()
    (tmp_path / "no description.json").unlink()
    (tmp_path / "torn.json").write_text(whole.read_text()[:40])
    (tmp_path / "torn time.tsv").write_text("s\th:m:s\n")
    (tmp_path / "foreign.json").write_text('{"images": 3}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "list.tsv").write_text(whole.with_suffix(".tsv").read_text())
    lacking = json.loads(whole.read_text())
    del lacking["cpu"]
    (tmp_path / "lacking.json").write_text(json.dumps(lacking))
    (tmp_path / "lacking.tsv").write_text(whole.with_suffix(".tsv").read_text())
    assert len(records.load([tmp_path])) == 1


def test_places_without_records_are_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: there are no records"):
        records.load([tmp_path / "nowhere"])
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(ConfigError, match=r"notes\.txt: line 1 is no record"):
        records.load([tmp_path / "notes.txt"])


def test_a_full_disk_does_not_undo_a_job(tmp_path):
    (tmp_path / "file").write_text("")
    records.leave(tmp_path / "file/below.json", CRF, stage=1.0, cpu=1.0, threads=1, gpus=0, outputs=[])
    records.leave(tmp_path / "x.json", CRF, stage=1.0, cpu=1.0, threads=1, gpus=0, outputs=[str(tmp_path / "gone")])
    assert (tmp_path / "x.json").is_file()


# --- the work of a job -----------------------------------------------------------------------------------------------


def work(plan, readable: str, rule: str = "rule", shard=None) -> Work:
    goal = records.parse_target(readable)
    return work_of(plan, rule, json.loads(plan.job(goal, shard)))


def test_work_counts_images_epochs_and_shards(plan):
    made = plan()
    assert work(made, "parts/catalog.val.h5").images == 6
    train = work(made, "parts/plain/classifier.pt")
    assert (train.images, train.epochs, train.units, train.grows) == (40, 3, 120, False)
    maps = work(made, "parts/plain/cam/maps.train.h5", shard=(0, 4))
    assert (maps.images, maps.epochs, maps.grows, maps.networks) == (10, 1, True, ("tiny",))
    index = work(made, "parts/plain/cam/maps.train.h5")  # over the shards
    assert (index.images, index.known, index.grows) == (None, True, False)
    crf = work(made, "parts/plain/cam/crf/masks.val.h5")
    assert (crf.images, crf.networks, crf.grows) == (6, (), True)
    figure = work(made, "parts/plain/cam/overlays.val.png")
    assert (figure.images, figure.known) == (None, True)


def test_pages_and_tables_are_work_too(plan):
    """A page of pictures grows with the images it shows; the list of pages and the tables are the same for any number."""
    for images, shown in ((None, 6), (4, 4), (100, 6)):
        made = plan(**{"gallery.images": images})
        page = gallery.path_of(made, "gallery/parts/index.html")
        token = Path(page).parent.name.rpartition("-")[2]
        found = work_of(made, "make_gallery", json.loads(gallery.job(made, "gallery/parts/index.html", token)))
        assert (found.dataset, found.images, found.known) == ("parts", shown, True)
    listed = Path(gallery.path_of(made, "gallery/index.html")).stem.rpartition("-")[2]
    for text in (
        gallery.job(made, "gallery/index.html", listed),
        made.papers.job(
            "advcam", "table_4", Path(made.papers.path("papers/advcam/table_4.csv")).stem.rpartition("-")[2]
        ),
    ):
        assert work_of(made, "rule", json.loads(text)) == Work("rule", "", "", (), None)
    assert records.place(made, made.results / "logs/papers/advcam/x.log", "papers/advcam/table_4.csv") is None


def test_settings_leave_out_what_does_not_cost(plan):
    made = plan()
    train = {name: work(made, f"parts/{name}/classifier.pt") for name in ("plain", "longer", "wide", "deep")}
    assert train["plain"].settings == train["longer"].settings  # only the seed and the epochs differ
    assert train["plain"].settings != train["wide"].settings
    assert train["plain"].networks == train["wide"].networks != train["deep"].networks
    maps = {
        name: work(made, f"parts/{name}/maps.val.h5", shard=(0, 2)) for name in ("plain/cam", "plain/cams", "wide/cam")
    }
    assert len({item.settings for item in maps.values()}) == 3
    assert maps["plain/cam"].settings == work(made, "parts/longer/cam/maps.val.h5", shard=(1, 2)).settings
    # The CRF does not know the network; the same on another dataset.
    crf = [work(made, f"{name}/cam/crf/masks.train.h5") for name in ("parts/plain", "parts/deep", "more/plain")]
    assert len({item.settings for item in crf}) == 1
    assert [item.images for item in crf] == [40, 40, 400]


def test_images_of_data_that_is_not_there_are_not_guessed(plan):
    made = plan(**{"datasets.later": {"format": "voc"}})  # to be downloaded
    assert records.image_count(made, "later", "train") is None
    assert records.image_count(made, "photos", "train") is None
    found = work(made, "later/plain/classifier.pt")
    assert (found.images, found.known) == (None, False)


# --- rules -----------------------------------------------------------------------------------------------------------


def rules_with_scripts():
    text = "\n".join(path.read_text() for path in sorted(RULES.glob("*.smk")))
    for block in re.split(r"(?m)^ *rule\b", text)[1:]:
        if "script:\n" in block:
            yield block


def test_every_rule_that_computes_leaves_its_time_beside_its_log():
    quick = ("scripts/plot_", "scripts/make_tables", "scripts/make_paper_table", "scripts/list_galleries")
    checked = 0
    for block in rules_with_scripts():
        log = re.search(r'log:\n\s+f"\{LOGS\}(.+)\.log"', block)[1]
        measured = re.search(r'benchmark:\n\s+f"\{BENCHMARKS\}(.+)\.tsv"', block)
        if measured is None:
            assert any(script in block for script in quick), block
        else:
            assert measured[1] == log  # where the job puts its description
            checked += 1
    assert checked > 40


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(plan, monkeypatch):
    """A plan whose Snakemake names the check, two shards of maps and a link; the check is done."""

    def ask(made, targets, cores, gpus):
        maps = records.parse_target("parts/plain/cam/maps.train.h5")
        catalog = records.parse_target("parts/catalog.train.h5")
        common = {"threads": 1, "gpus": 0, "measured": True}
        jobs = [
            {
                "id": n,
                "rule": "localize_cam",
                "run": True,
                "output": [],
                "needs": [3],
                "job": made.job(maps, (n, 2)),
                **common,
            }
            for n in range(2)
        ]
        Path("catalog.h5").write_bytes(b"x" * 123)
        done = {
            "id": 3,
            "rule": "check_dataset",
            "run": False,
            "output": ["catalog.h5"],
            "needs": [],
            "job": made.job(catalog),
        }
        link = {"id": 4, "rule": "view", "run": True, "output": [], "needs": [0, 1], "job": None}
        return [*jobs, {**common, **done}, {**common, **link, "measured": False}]

    monkeypatch.setattr(forecast, "ask_snakemake", ask)
    return plan()


def printed(report) -> str:
    console = Console(file=io.StringIO(), width=160)
    forecast.show(report, console)
    return console.file.getvalue()


def test_without_records_no_number_is_given(asked):
    report = forecast.forecast(asked, [], cores=2, gpus=0)
    assert report["total"] == {
        "jobs_to_run": 3, "jobs_cached": 1, "jobs_without_record": 2, "stored_bytes": 123,
        "core_hours": None, "gpu_hours": None, "new_bytes": None,
    }  # fmt: skip
    assert report["wall_seconds"] is None and not report["complete"]
    text = printed(report)
    assert "no record yet" in text and "cannot be said" in text and "About" not in text


def test_with_records_of_the_same_settings(asked, tmp_path):
    # 20 images a shard: 2 s of start and 0.5 s an image, measured on 8.
    done = replace(work(asked, "parts/plain/cam/maps.val.h5", "localize_cam", (0, 1)), images=8.0)
    record = replace(CRF_RECORD, work=done, seconds=6.0, stage=4.0, threads=1, size=800)
    leave(Path("results/benchmarks"), "maps", record, tmp_path / "maps.h5")
    report = forecast.forecast(asked, [], cores=1, gpus=0, save=tmp_path / "saved.jsonl")
    assert report["complete"] and report["wall_seconds"] == pytest.approx(2 * (2 + 0.5 * 20))
    assert report["total"]["core_hours"] == pytest.approx(24 / 3600)
    assert report["total"]["new_bytes"] == 2 * 20 * 100
    (cam,) = [stage for stage in report["stages"] if stage["rule"] == "localize_cam"]
    assert cam["stands_on"]["records"] == 1 and cam["stands_on"]["estimates"] == {HERE: 2}
    assert "About 24 s on 1 core" in printed(report) and "x the work" not in printed(report)
    cam["stands_on"]["stretch"] = 40.0
    assert "40 x the work" in printed(report) and "expect less" in printed(report)
    cam["stands_on"]["stretch"] = 2.5
    # The same from the saved file alone, as on another machine; and by the config.
    (Path("results/benchmarks") / "maps.json").unlink()
    assert forecast.forecast(asked, [], cores=1, gpus=0)["wall_seconds"] is None
    for places, named in (([tmp_path / "saved.jsonl"], []), ([], [str(tmp_path / "saved.jsonl")])):
        asked.config["runtime"]["records"] = named
        again = forecast.forecast(asked, [], cores=1, gpus=0, places=places)
        assert again == report


def test_the_command_speaks_to_people_and_machines(asked, capsys):
    assert cli.main(["plan", "--cores", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cores"] == 2
    assert cli.main(["plan", "tables"]) == 0
    assert "localize_cam" in capsys.readouterr().out
    assert cli.main(["plan", "--cores", "0"]) == 1
    assert "--cores should be 1 or more" in capsys.readouterr().err


def test_nothing_to_run_is_said_in_a_line(asked, monkeypatch):
    ask = forecast.ask_snakemake
    monkeypatch.setattr(
        forecast, "ask_snakemake", lambda *given: [{**item, "run": False, "output": []} for item in ask(*given)]
    )
    report = forecast.forecast(asked, [], cores=1, gpus=0)
    assert printed(report).strip() == "Nothing to run: 4 jobs cached, 0 B on disk."
    assert report["total"]["core_hours"] == 0 and report["wall_seconds"] == 0


def test_links_alone_are_no_work_without_a_record(asked, monkeypatch):
    ask = forecast.ask_snakemake
    monkeypatch.setattr(
        forecast, "ask_snakemake", lambda *given: [{**item, "run": item["rule"] == "view"} for item in ask(*given)]
    )
    report = forecast.forecast(asked, [], cores=1, gpus=0)
    assert report["complete"] and report["total"]["jobs_to_run"] == 1 and report["total"]["core_hours"] == 0
    text = printed(report)
    assert "Only links" in text and "cannot be said" not in text and "About" not in text
