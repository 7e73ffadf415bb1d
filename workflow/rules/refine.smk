# Refiners: pseudo-masks from seed maps. One rule a method.


rule refine_none:
    input:
        unpack(reads("masks")),
    output:
        masks=f"{DEPTH['refiner']}/masks.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        refiner=named("refiner", "none"),
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("masks"),
    script:
        "../scripts/refine_none.py"


rule refine_crf:
    input:
        unpack(reads("masks")),
    output:
        masks=f"{DEPTH['refiner']}/masks.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        refiner=named("refiner", "crf"),
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("masks"),
    script:
        "../scripts/refine_crf.py"


rule refine_confident:
    input:
        unpack(reads("masks")),
    output:
        masks=f"{DEPTH['refiner']}/masks.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        refiner=named("refiner", "confident"),
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("masks"),
    script:
        "../scripts/refine_confident.py"


rule refine_gt:
    input:
        unpack(reads("masks")),
    output:
        masks=f"{DEPTH['refiner']}/masks.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        refiner=named("refiner", "gt"),
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("masks"),
    script:
        "../scripts/refine_gt.py"


rule refine_assemble:
    input:
        unpack(reads("masks")),
    output:
        masks=f"{DEPTH['refiner']}/masks.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/masks.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        refiner=named("refiner", "assemble"),
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("masks"),
    script:
        "../scripts/refine_assemble.py"
