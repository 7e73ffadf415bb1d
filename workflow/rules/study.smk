# Studies: what a method does on the way and how its parameters matter; a table and a figure each.

TABLE_STUDIES = "amplification|loss_surface|climb|tsne|sensitivity"


rule study:
    input:
        unpack(reads(by_study, ".csv")),
    output:
        table=f"{DEPTH['localizer']}/{{study}}.{{split}}-{{token}}.csv",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{study}}.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{study}}.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        study=TABLE_STUDIES,
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    resources:
        gpu=PLAN.gpus,
    params:
        job=job(by_study, ".csv"),
    script:
        "../scripts/study_{wildcards.study}.py"


rule study_successive:
    input:
        unpack(reads("successive", ".csv")),
    output:
        table=f"{DEPTH['localizer']}/successive.{{split}}-{{token}}.csv",
        maps=f"{DEPTH['localizer']}/successive_maps.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/successive.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/successive.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("successive", ".csv"),
    script:
        "../scripts/study_successive.py"


rule study_prototypes:
    input:
        unpack(reads("prototypes", ".csv")),
    output:
        table=f"{DEPTH['localizer']}/prototypes-{{token}}.csv",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/prototypes-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/prototypes-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("prototypes", ".csv"),
    script:
        "../scripts/study_prototypes.py"


rule study_errors:
    input:
        unpack(reads("errors", ".csv")),
    output:
        table=f"{DEPTH['localizer']}/errors.{{split}}-{{token}}.csv",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/errors.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/errors.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("errors", ".csv"),
    script:
        "../scripts/study_errors.py"


rule plot_study:
    input:
        unpack(reads(by_study, ".png")),
    output:
        figure=f"{DEPTH['localizer']}/{{study}}.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{study}}.{{split}}-{{token}}.figure.log",
    wildcard_constraints:
        study=TABLE_STUDIES,
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job(by_study, ".png"),
    script:
        "../scripts/plot_study.py"


rule plot_successive:
    input:
        unpack(reads("successive", ".png")),
    output:
        figure=f"{DEPTH['localizer']}/successive.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/successive.{{split}}-{{token}}.figure.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("successive", ".png"),
    script:
        "../scripts/plot_successive.py"


rule plot_prototypes:
    input:
        unpack(reads("prototypes", ".png")),
    output:
        figure=f"{DEPTH['localizer']}/prototypes-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/prototypes-{{token}}.figure.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("prototypes", ".png"),
    script:
        "../scripts/plot_prototypes.py"
