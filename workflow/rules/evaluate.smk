# Scores: one JSON file at each depth of a recipe, with the conditions of the score inside.


rule score_classifier:
    input:
        unpack(reads("score")),
    output:
        score=f"{DEPTH['classifier']}/score.{{split}}-{{token}}.json",
    params:
        job=job("score"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/score.{{split}}-{{token}}.log",
    resources:
        gpu=gpus(),
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/score_classifier.py"


rule score_maps:
    input:
        unpack(reads("score")),
    output:
        score=f"{DEPTH['localizer']}/score.{{split}}-{{token}}.json",
    params:
        job=job("score"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/score.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/score.{{split}}-{{token}}.tsv"
    threads: PLAN.config["runtime"]["jobs"]
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/score_maps.py"


rule score_masks:
    input:
        unpack(reads("score")),
    output:
        score=f"{DEPTH['refiner']}/score.{{split}}-{{token}}.json",
    params:
        job=job("score"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/score.{{split}}-{{token}}.log",
    threads: PLAN.config["runtime"]["jobs"]
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/score_masks.py"


@plainly
def scores(wildcards):
    """Every score of the configured recipes."""
    return [ancient(PLAN.path(goal)) for goal in PLAN.scores()]


rule make_tables:
    input:
        scores=scores,
    output:
        csv=f"{STORE}/tables/scores-{{token}}.csv",
        markdown=f"{STORE}/tables/scores-{{token}}.md",
        html=f"{STORE}/tables/scores-{{token}}.html",
    params:
        job=lambda wildcards: PLAN.table_job(wildcards.token),
    log:
        f"{LOGS}/tables/scores-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/make_tables.py"
