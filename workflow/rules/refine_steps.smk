# Refiners of several steps: labels from the seed, a network trained on them, what it says of every photo, and the walk.


rule label_irn:
    input:
        unpack(reads("irn_labels")),
    output:
        shard=f"{DEPTH['localizer']}/irn_labels.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_labels-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_labels-{{shard}}of{{shards}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("irn_labels"),
    script:
        "../scripts/label_irn.py"


rule join_irn_labels:
    input:
        shards=shards_of("irn_labels"),
    output:
        joined=f"{DEPTH['localizer']}/irn_labels-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_labels-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_labels-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("irn_labels"),
    script:
        "../scripts/join_shards.py"


rule train_irn:
    input:
        unpack(reads("irn_network")),
    output:
        network=f"{DEPTH['localizer']}/irn_network-{{token}}.pt",
        training=f"{DEPTH['localizer']}/irn_training-{{token}}.csv",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_network-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_network-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    threads: step_threads("irn_network")
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("irn_network"),
    script:
        "../scripts/train_irn.py"


rule predict_irn:
    input:
        unpack(reads("irn_edges")),
    output:
        shard=f"{DEPTH['localizer']}/irn_edges.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_edges.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_edges.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("irn_edges"),
    script:
        "../scripts/predict_irn.py"


rule join_irn_edges:
    input:
        shards=shards_of("irn_edges"),
    output:
        joined=f"{DEPTH['localizer']}/irn_edges.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_edges.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/irn_edges.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("irn_edges"),
    script:
        "../scripts/join_shards.py"


rule refine_irn:
    input:
        unpack(reads("masks")),
    output:
        masks=f"{DEPTH['refiner']}/masks.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        refiner=named("refiner", "irn"),
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("masks"),
    script:
        "../scripts/refine_irn.py"


rule instances_irn:
    input:
        unpack(reads("instances")),
    output:
        instances=f"{DEPTH['refiner']}/instances.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/instances.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/instances.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        refiner=named("refiner", "irn"),
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("instances"),
    script:
        "../scripts/instances_irn.py"


rule score_instances:
    input:
        unpack(reads("score_instances")),
    output:
        score=f"{DEPTH['refiner']}/score_instances.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/score_instances.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/score_instances.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("score_instances"),
    script:
        "../scripts/score_instances.py"


rule label_psa:
    input:
        unpack(reads("psa_scores")),
    output:
        shard=f"{DEPTH['localizer']}/psa_scores.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_scores-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_scores-{{shard}}of{{shards}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("psa_scores"),
    script:
        "../scripts/label_psa.py"


rule join_psa_scores:
    input:
        shards=shards_of("psa_scores"),
    output:
        joined=f"{DEPTH['localizer']}/psa_scores-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_scores-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_scores-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("psa_scores"),
    script:
        "../scripts/join_shards.py"


rule train_psa:
    input:
        unpack(reads("psa_network")),
    output:
        network=f"{DEPTH['localizer']}/psa_network-{{token}}.pt",
        training=f"{DEPTH['localizer']}/psa_training-{{token}}.csv",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_network-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_network-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    threads: step_threads("psa_network")
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("psa_network"),
    script:
        "../scripts/train_psa.py"


rule predict_psa:
    input:
        unpack(reads("psa_affinities")),
    output:
        shard=f"{DEPTH['localizer']}/psa_affinities.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_affinities.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_affinities.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("psa_affinities"),
    script:
        "../scripts/predict_psa.py"


rule join_psa_affinities:
    input:
        shards=shards_of("psa_affinities"),
    output:
        joined=f"{DEPTH['localizer']}/psa_affinities.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_affinities.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/psa_affinities.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("psa_affinities"),
    script:
        "../scripts/join_shards.py"


rule refine_psa:
    input:
        unpack(reads("masks")),
    output:
        masks=f"{DEPTH['refiner']}/masks.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        refiner=named("refiner", "psa"),
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("masks"),
    script:
        "../scripts/refine_psa.py"


rule study_walk:
    input:
        unpack(reads("walk", ".csv")),
    output:
        table=f"{DEPTH['refiner']}/walk.{{split}}-{{token}}.csv",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/walk.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/walk.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        refiner=named("refiner", "irn"),
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("walk", ".csv"),
    script:
        "../scripts/study_walk.py"


rule plot_walk:
    input:
        unpack(reads("walk", ".png")),
    output:
        figure=f"{DEPTH['refiner']}/walk.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/walk.{{split}}-{{token}}.figure.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("walk", ".png"),
    script:
        "../scripts/plot_study.py"
