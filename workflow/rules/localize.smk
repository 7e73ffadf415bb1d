# Localizers: seed maps from a trained classifier, in shards by image. One rule a method, one for the joining.


rule localize_cam:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "cam"),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("maps"),
        method="cam",
    script:
        "../scripts/localize_{params.method}.py"


rule localize_advcam:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "advcam"),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("maps"),
    script:
        "../scripts/localize_advcam.py"


rule cluster_lpcam:
    input:
        unpack(reads("lpcam_prototypes")),
    output:
        prototypes=f"{DEPTH['classifier']}/lpcam_prototypes.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/lpcam_prototypes-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/lpcam_prototypes-{{shard}}of{{shards}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("lpcam_prototypes"),
    script:
        "../scripts/cluster_lpcam.py"


rule join_prototypes:
    input:
        shards=shards_of("lpcam_prototypes"),
    output:
        prototypes=f"{DEPTH['classifier']}/lpcam_prototypes-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/lpcam_prototypes-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/lpcam_prototypes-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("lpcam_prototypes"),
    script:
        "../scripts/join_prototypes.py"


rule localize_lpcam:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "lpcam"),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("maps"),
    script:
        "../scripts/localize_lpcam.py"


rule localize_seam:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "seam"),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("maps"),
    script:
        "../scripts/localize_seam.py"


rule localize_amn:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "amn"),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("maps"),
    script:
        "../scripts/localize_amn.py"


rule localize_mctformer:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "mctformer"),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("maps"),
    script:
        "../scripts/localize_mctformer.py"


rule localize_masker:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "masker"),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("maps"),
    script:
        "../scripts/localize_masker.py"


rule localize_ensemble:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "ensemble"),
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("maps"),
    script:
        "../scripts/localize_ensemble.py"


rule localize_import:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "import"),
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("maps"),
    script:
        "../scripts/localize_import.py"


rule localize_erasing:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    wildcard_constraints:
        localizer=named("localizer", "erasing"),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("maps"),
    script:
        "../scripts/localize_erasing.py"


rule join_maps:
    input:
        shards=shards_of("maps"),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("maps"),
    script:
        "../scripts/join_shards.py"
