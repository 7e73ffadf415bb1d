# Datasets: made here (generated or downloaded) or given by the user; read once in full, and listed in a catalog.


@plainly
def manifest_of(wildcards):
    """The list a dataset made here leaves behind; nothing for a folder of the user's."""
    name = wildcards.dataset.rsplit("-", 1)[0]
    return [ancient(str(PLAN.made_folder(name) / "manifest.json"))] if PLAN.is_made(name) else []


def made(method):
    """Wildcard pattern of the folders of datasets of one format."""
    return named("dataset", method)


rule prepare_parts:
    output:
        manifest="results/data/{dataset}/manifest.json",
    params:
        job=lambda wildcards: PLAN.prepare_job(wildcards.dataset),
    log:
        f"{LOGS}/data/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=made("parts"),
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/prepare_parts.py"


rule prepare_voc:
    output:
        manifest="results/data/{dataset}/manifest.json",
    params:
        job=lambda wildcards: PLAN.prepare_job(wildcards.dataset),
    log:
        f"{LOGS}/data/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=made("voc"),
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/prepare_voc.py"


rule check_dataset:
    input:
        manifest=manifest_of,
    output:
        catalog=f"{DEPTH['dataset']}/catalog.{{split}}-{{token}}.h5",
        check=f"{DEPTH['dataset']}/check.{{split}}-{{token}}.json",
    params:
        job=job("catalog"),
    log:
        f"{LOGS}/{{dataset}}/check.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/check.{{split}}-{{token}}.tsv"
    threads: 2
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/check_dataset.py"
