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
