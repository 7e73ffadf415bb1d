# Datasets: made here (generated or downloaded) or given by the user; read once in full, and listed in a catalog.


rule prepare_parts:
    output:
        manifest="results/data/{dataset}/manifest.json",
    log:
        f"{LOGS}/data/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=made("parts"),
    conda:
        "../../envs/camflow.yaml"
    params:
        job=lambda wildcards: PLAN.prepare_job(wildcards.dataset),
    script:
        "../scripts/prepare_parts.py"


rule prepare_voc:
    output:
        manifest="results/data/{dataset}/manifest.json",
    log:
        f"{LOGS}/data/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=made("voc"),
    conda:
        "../../envs/camflow.yaml"
    params:
        job=lambda wildcards: PLAN.prepare_job(wildcards.dataset),
    script:
        "../scripts/prepare_voc.py"


rule prepare_cifar:
    output:
        manifest="results/data/{dataset}/manifest.json",
    log:
        f"{LOGS}/data/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=made("cifar"),
    conda:
        "../../envs/camflow.yaml"
    params:
        job=lambda wildcards: PLAN.prepare_job(wildcards.dataset),
    script:
        "../scripts/prepare_cifar.py"


rule check_dataset:
    input:
        manifest=manifest_of,
    output:
        catalog=f"{DEPTH['dataset']}/catalog.{{split}}-{{token}}.h5",
        check=f"{DEPTH['dataset']}/check.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/check.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/check.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        dataset=providing("dataset", "images"),
    conda:
        "../../envs/camflow.yaml"
    threads: 2
    params:
        job=job("catalog"),
    script:
        "../scripts/check_dataset.py"
