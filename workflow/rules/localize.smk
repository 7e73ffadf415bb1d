# Localizers: seed maps from a trained classifier, in shards by image. One rule a method, one for the joining.


rule localize_cam:
    input:
        unpack(reads("maps")),
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}.shards/{{shard}}of{{shards}}-{{token}}.h5",
    params:
        job=job("maps"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{shard}}of{{shards}}-{{token}}.tsv"
    resources:
        gpu=gpus(),
    wildcard_constraints:
        localizer=named("localizer", "cam"),
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/localize_cam.py"


@plainly
def shards_of(wildcards):
    """The shards behind an index of seed maps."""
    goal, _ = goal_of("maps", None, wildcards)
    count = PLAN.shards(goal.steps)
    return [ancient(PLAN.path(goal, (number, count))) for number in range(count)]


rule join_maps:
    input:
        shards=shards_of,
    output:
        maps=f"{DEPTH['localizer']}/maps.{{split}}-{{token}}.h5",
    params:
        job=job("maps"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/maps.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/join_shards.py"
