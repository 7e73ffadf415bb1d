# Sequences of features in the place of photos: made or given, a classifier of whole videos, proposals in time, their
# scores. Joining, tables and the figure of a training are those of photos.


rule prepare_sequences:
    output:
        manifest="results/data/{dataset}/manifest.json",
    log:
        f"{LOGS}/data/{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=made("sequences"),
    conda:
        "../../envs/camflow.yaml"
    params:
        job=lambda wildcards: PLAN.prepare_job(wildcards.dataset),
    script:
        "../scripts/prepare_sequences.py"


rule check_sequences:
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
        dataset=providing("dataset", "sequences"),
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("catalog"),
    script:
        "../scripts/check_sequences.py"


rule train_temporal:
    input:
        unpack(reads("classifier")),
    output:
        classifier=f"{DEPTH['classifier']}/classifier.pt",
        training=f"{DEPTH['classifier']}/training.csv",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/train.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/train.tsv"
    wildcard_constraints:
        classifier=named("classifier", "temporal"),
    conda:
        "../../envs/camflow.yaml"
    threads: lambda wildcards: PLAN.training_threads(wildcards.classifier)
    resources:
        gpu=lambda wildcards: PLAN.training_gpus(wildcards.classifier),
    params:
        job=job("classifier"),
    script:
        "../scripts/train_temporal.py"


rule localize_temporal_cam:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "temporal_cam"),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("maps"),
    script:
        "../scripts/localize_temporal_cam.py"


rule score_temporal:
    input:
        unpack(reads("detections")),
    output:
        score=f"{DEPTH['localizer']}/detections.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/detections.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/detections.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("detections"),
    script:
        "../scripts/score_temporal.py"
