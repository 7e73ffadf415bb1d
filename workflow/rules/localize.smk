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
    script:
        "../scripts/localize_cam.py"


rule join_maps:
    input:
        shards=shards_of("maps"),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("maps"),
    script:
        "../scripts/join_shards.py"
