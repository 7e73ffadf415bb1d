# Scores: one JSON file at each depth of a recipe, with the conditions of the score inside.


rule score_classifier:
    input:
        unpack(reads("score")),
    output:
        score=f"{DEPTH['classifier']}/score.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/score.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/score.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("score"),
    script:
        "../scripts/score_classifier.py"


rule score_maps:
    input:
        unpack(reads("score")),
    output:
        score=f"{DEPTH['localizer']}/score.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/score.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/score.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("score"),
    script:
        "../scripts/score_maps.py"


rule score_masks:
    input:
        unpack(reads("score")),
    output:
        score=f"{DEPTH['refiner']}/score.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/score.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/score.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("score"),
    script:
        "../scripts/score_masks.py"


rule make_tables:
    input:
        scores=scores,
    output:
        csv=f"{STORE}/tables/{{table}}-{{token}}.csv",
        markdown=f"{STORE}/tables/{{table}}-{{token}}.md",
        html=f"{STORE}/tables/{{table}}-{{token}}.html",
    log:
        f"{LOGS}/tables/{{table}}-{{token}}.log",
    wildcard_constraints:
        table="[a-z_]+",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=lambda wildcards: PLAN.table_job(wildcards.table, wildcards.token),
    script:
        "../scripts/make_tables.py"
