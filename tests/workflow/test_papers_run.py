"""Published tables as targets of the real Snakemake: what they plan under every overlay, and one run to the end."""

import json
import re
import shutil

import pandas as pd
import pytest
from project import PROJECT, TINY, copy_project
from test_shipped_configs import SCORED_BY_BOX, make_coco

TARGET = re.compile(r"\b(?:table|figure)_(?:advcam|lpcam|ae|has|casm)_\w+")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = copy_project(tmp_path_factory.mktemp("papers") / "project")
    shutil.copy(PROJECT / "config.yaml", made.folder / "config.yaml")
    return made


def jobs(project, *arguments):
    """What a dry run would start, without the targets themselves."""
    return {rule: count for rule, count in project.planned(*arguments).items() if not TARGET.fullmatch(rule)}


def targets(project):
    run = project.snakemake("--list-rules")
    return set(TARGET.findall(run.stdout + run.stderr))


def test_papers_plans_every_table_on_voc_without_the_data(project):
    """Each target is an input of `papers`, so this is a dry run of all of them."""
    planned = project.planned("--configfile", "config/voc12.yaml", "--", "papers")
    assert planned["make_paper_table"] == planned["view_paper_table"] == 32
    # IRN on CAM, AdvCAM, LPCAM, AMN and LPCAM on AMN; DeepLab after IRN twice (plain and balanced) and once after the
    # others ...
    assert planned["train_irn"] == 5
    assert planned["train_amn"] == 1 and "train_mctformer" not in planned  # whose checkpoint is not there
    assert (planned["train_adversarial_erasing"], planned["train_psl"], planned["train_cct"]) == (4, 2, 2)
    assert "train_seam" not in planned and "train_casm" not in planned
    # plain for AE's confidences and AMN's labels, plain_whole for all else; two settings of nothing else are trained.
    assert planned["train_plain"] == 2


@pytest.mark.long
def test_each_target_is_a_rule_of_its_own(project):
    names = targets(project)
    assert len(names) == 32 and {"table_advcam_1", "figure_advcam_8", "table_lpcam_sensitivity"} <= names
    planned = project.planned("--configfile", "config/voc12.yaml", "--", "table_advcam_4")
    assert (planned["train_plain"], planned["train_irn"], planned["localize_advcam"]) == (1, 2, 4)
    assert "refine_crf" not in planned and "train_deeplab" not in planned


@pytest.mark.long
def test_papers_plans_on_the_embedded_data(project):
    planned = project.planned("papers")
    assert planned["make_paper_table"] == 32
    assert planned["train_temporal"] == 2 and "train_seam" not in planned and "train_cct" not in planned
    assert planned["study"] == planned["study_successive"] == 1 and "train_irn" not in planned
    costly = project.planned("papers", "--config", "papers={costly: true}")
    assert costly["study"] == 5 and costly["train_irn"] == 5
    assert costly["train_seam"] == 1 and costly["train_cct"] == 2 and costly["train_psa"] >= 2


@pytest.mark.long
def test_papers_plans_on_coco(project, tmp_path):
    planned = project.planned(
        "--configfile", "config/coco14.yaml", "--config", f"coco_root={make_coco(tmp_path)}", "--", "papers"
    )
    assert planned["make_paper_table"] == 32
    # plain_whole, and plain for AMN's labels.
    assert (planned["train_plain"], planned["train_amn"]) == (2, 1)
    # Of AdvCAM's tables two more stand on COCO as on other data.
    assert (planned["train_irn"], planned["train_deeplab"]) == (6, 4)
    assert planned["cluster_lpcam"] == 2 * 80  # on plain_whole and on amn


@pytest.mark.long
@pytest.mark.parametrize(("name", "trained"), [("cub", 2), ("openimages", 2), ("ilsvrc", 22)])
def test_papers_plans_on_data_with_boxes(project, tmp_path, name, trained):
    make = SCORED_BY_BOX[name][0]
    make(tmp_path)
    planned = project.planned(
        "--configfile", f"config/{name}.yaml", "--config", f"folder_root={tmp_path}", "--", "papers"
    )
    assert planned["make_paper_table"] == 32
    assert planned["train_plain"] == trained
    assert planned.get("train_casm", 0) == (5 if name == "ilsvrc" else 0)


@pytest.mark.long
def test_a_table_runs_to_the_end(tmp_path):
    """CAM and LPCAM-F, which only the catalogue gives, are measured; LPCAM is not in this config."""
    made = copy_project(tmp_path / "project")
    advcam = {"method": "advcam", "scales": [1.0], "steps": 2, "lambda": 2}
    made.configure(
        localizers={**TINY["localizers"], "advcam": advcam},
        studies={"loss_surface": {"images": 2, "points": 3}},
    )
    made.snakemake("table_lpcam_1", "figure_advcam_3")
    folder = made.results / "papers"
    table = pd.read_csv(folder / "lpcam/table_1.csv").set_index(["row", "column"])
    for name, recipe in (("CAM", "cam"), ("LPCAM-F", "lpcam_f")):
        stored = made.results.glob(f"store/parts-*/plain-*/{recipe}-*/score.val-*.json")
        score = json.loads(next(stored).read_text())
        for column, key in (("mIoU", "miou"), ("FP", "fp_rate"), ("R", "recall")):
            assert table.loc[(name, column), "measured"] == round(100 * score[key], 2)
        assert table.loc[(name, "mIoU"), "status"] == "measured on other data (parts val)"
    assert table.loc[("LPCAM", "mIoU"), "status"] == "not run (there is no localizer 'lpcam' for 'parts' in the config)"
    assert table["difference"].isna().all() and table.loc[("LPCAM", "mIoU"), "published"] == 54.9
    text = (folder / "lpcam/table_1.md").read_text()
    assert "published on other data (voc12 train_voc)" in text
    assert r"\end{tabular}" in (folder / "lpcam/table_1.tex").read_text()
    assert (folder / "lpcam/table_1.csv").is_symlink()

    study = pd.read_csv(made.results / "parts/plain/advcam/loss_surface.val.csv")
    figure = pd.read_csv(folder / "advcam/figure_3.csv").set_index("row")
    assert figure.loc["attacking side", "measured"] == round(study[study["alpha"] > 0]["loss"].max(), 2)
    assert (made.results / "parts/plain/advcam/loss_surface.val.png").exists()

    assert jobs(made, "table_lpcam_1", "figure_advcam_3") == {}
    made.edit("config/papers/lpcam.yaml", "FP: 26.5", "FP: 26.6")
    assert jobs(made, "table_lpcam_1", "figure_advcam_3") == {"make_paper_table": 1, "view_paper_table": 1}
    made.snakemake("table_lpcam_1", "figure_advcam_3")
    assert 26.6 in pd.read_csv(folder / "lpcam/table_1.csv")["published"].tolist()
    made.snakemake("table_lpcam_1", "--report", "report.html", cores=1)
    assert "Papers" in (made.folder / "report.html").read_text()
