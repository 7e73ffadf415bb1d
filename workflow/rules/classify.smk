# Classifiers: trained from image labels alone. One rule a method.


rule train_plain:
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
        classifier=named("classifier", "plain"),
    conda:
        "../../envs/camflow.yaml"
    threads: lambda wildcards: PLAN.training_threads(wildcards.classifier)
    resources:
        gpu=lambda wildcards: PLAN.training_gpus(wildcards.classifier),
    params:
        job=job("classifier"),
    script:
        "../scripts/train_plain.py"


rule train_seam:
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
        classifier=named("classifier", "seam"),
    conda:
        "../../envs/camflow.yaml"
    threads: lambda wildcards: PLAN.training_threads(wildcards.classifier)
    resources:
        gpu=lambda wildcards: PLAN.training_gpus(wildcards.classifier),
    params:
        job=job("classifier"),
    script:
        "../scripts/train_seam.py"


rule train_amn:
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
        classifier=named("classifier", "amn"),
    conda:
        "../../envs/camflow.yaml"
    threads: lambda wildcards: PLAN.training_threads(wildcards.classifier)
    resources:
        gpu=lambda wildcards: PLAN.training_gpus(wildcards.classifier),
    params:
        job=job("classifier"),
    script:
        "../scripts/train_amn.py"


rule train_mctformer:
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
        classifier=named("classifier", "mctformer"),
    conda:
        "../../envs/camflow.yaml"
    threads: lambda wildcards: PLAN.training_threads(wildcards.classifier)
    resources:
        gpu=lambda wildcards: PLAN.training_gpus(wildcards.classifier),
    params:
        job=job("classifier"),
    script:
        "../scripts/train_mctformer.py"


rule train_casm:
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
        classifier=named("classifier", "casm"),
    conda:
        "../../envs/camflow.yaml"
    threads: lambda wildcards: PLAN.training_threads(wildcards.classifier)
    resources:
        gpu=lambda wildcards: PLAN.training_gpus(wildcards.classifier),
    params:
        job=job("classifier"),
    script:
        "../scripts/train_casm.py"


rule train_adversarial_erasing:
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
        classifier=named("classifier", "adversarial_erasing"),
    conda:
        "../../envs/camflow.yaml"
    threads: lambda wildcards: PLAN.training_threads(wildcards.classifier)
    resources:
        gpu=lambda wildcards: PLAN.training_gpus(wildcards.classifier),
    params:
        job=job("classifier"),
    script:
        "../scripts/train_adversarial_erasing.py"


rule erase_regions:
    input:
        unpack(reads("erased")),
    output:
        erased=f"{DEPTH['classifier']}/erased.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/erased.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/erased.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("erased"),
    script:
        "../scripts/erase_regions.py"


rule join_erased:
    input:
        shards=shards_of("erased"),
    output:
        joined=f"{DEPTH['classifier']}/erased.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/erased.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/erased.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("erased"),
    script:
        "../scripts/join_shards.py"


rule confide_classifier:
    input:
        unpack(reads("confidence")),
    output:
        confidence=f"{DEPTH['classifier']}/confidence.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/confidence.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/confidence.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("confidence"),
    script:
        "../scripts/confide_classifier.py"
