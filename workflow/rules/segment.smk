# Segmentation networks on pseudo-masks: the network, its logits on every photo, label maps of them, with a CRF or without.

SEGMENTERS = ("deeplab", "psl", "cct")


for method in SEGMENTERS:

    rule:
        name:
            f"train_{method}"
        input:
            unpack(reads(f"{method}_network")),
        output:
            network=f"{DEPTH['refiner']}/{method}_network-{{token}}.pt",
            training=f"{DEPTH['refiner']}/{method}_training-{{token}}.csv",
        log:
            f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{method}_network-{{token}}.log",
        benchmark:
            f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{method}_network-{{token}}.tsv"
        conda:
            "../../envs/camflow.yaml"
        threads: step_threads(f"{method}_network")
        resources:
            gpu=step_gpus(f"{method}_network"),
        params:
            job=job(f"{method}_network"),
            method=method,
        script:
            "../scripts/train_{params.method}.py"

    rule:
        name:
            f"predict_{method}"
        input:
            unpack(reads(f"{method}_logits")),
        output:
            shard=f"{DEPTH['refiner']}/{method}_logits.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
        log:
            f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{method}_logits.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
        benchmark:
            f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{method}_logits.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
        conda:
            "../../envs/camflow.yaml"
        resources:
            gpu=PLAN.gpus,
        params:
            job=job(f"{method}_logits"),
        script:
            "../scripts/predict_segmenter.py"

    rule:
        name:
            f"join_{method}_logits"
        input:
            shards=shards_of(f"{method}_logits"),
        output:
            joined=f"{DEPTH['refiner']}/{method}_logits.{{split}}-{{token}}.h5",
        log:
            f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{method}_logits.{{split}}-{{token}}.log",
        benchmark:
            f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{method}_logits.{{split}}-{{token}}.tsv"
        conda:
            "../../envs/camflow.yaml"
        params:
            job=job(f"{method}_logits"),
        script:
            "../scripts/join_logits.py"

    rule:
        name:
            f"segment_{method}"
        input:
            unpack(reads("predictions")),
        output:
            predictions=f"{DEPTH['segmenter']}/predictions.{{split}}-{{token}}.h5",
        log:
            f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/predictions.{{split}}-{{token}}.log",
        benchmark:
            f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/predictions.{{split}}-{{token}}.tsv"
        wildcard_constraints:
            segmenter=named("segmenter", method),
        conda:
            "../../envs/camflow.yaml"
        threads: PLAN.config["runtime"]["jobs"]
        params:
            job=job("predictions"),
            method=method,
        script:
            "../scripts/segment_{params.method}.py"


rule crf_predictions:
    input:
        unpack(reads("predictions_crf")),
    output:
        predictions=f"{DEPTH['segmenter']}/predictions_crf.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/predictions_crf.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/predictions_crf.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("predictions_crf"),
    script:
        "../scripts/crf_predictions.py"


for score in ("score", "score_crf"):

    rule:
        name:
            f"{score}_predictions"
        input:
            unpack(reads(score)),
        output:
            score=f"{DEPTH['segmenter']}/{score}.{{split}}-{{token}}.json",
        log:
            f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/{score}.{{split}}-{{token}}.log",
        benchmark:
            f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/{score}.{{split}}-{{token}}.tsv"
        conda:
            "../../envs/camflow.yaml"
        threads: PLAN.config["runtime"]["jobs"]
        params:
            job=job(score),
        script:
            "../scripts/score_masks.py"


rule export_voc:
    input:
        unpack(reads("export_voc")),
    output:
        archive=f"{DEPTH['segmenter']}/export_voc.{{split}}-{{token}}.tgz",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/export_voc.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/export_voc.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("export_voc"),
    script:
        "../scripts/export_voc.py"
