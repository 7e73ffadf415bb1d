# Refiners: pseudo-masks from seed maps. One rule a method.


rule refine_none:
    input:
        unpack(reads("masks")),
    output:
        masks=f"{DEPTH['refiner']}/masks.{{split}}-{{token}}.h5",
    params:
        job=job("masks"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.tsv"
    threads: PLAN.config["runtime"]["jobs"]
    wildcard_constraints:
        refiner=named("refiner", "none"),
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/refine_none.py"


rule refine_crf:
    input:
        unpack(reads("masks")),
    output:
        masks=f"{DEPTH['refiner']}/masks.{{split}}-{{token}}.h5",
    params:
        job=job("masks"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.tsv"
    threads: PLAN.config["runtime"]["jobs"]
    wildcard_constraints:
        refiner=named("refiner", "crf"),
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/refine_crf.py"
