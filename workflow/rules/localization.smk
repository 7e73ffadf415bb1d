# Maps against boxes: curves once, then every score of them; class-agnostic scores; masked photos and what networks
# recognise of them.


rule trace_boxes:
    input:
        unpack(reads("box_curves")),
    output:
        curves=f"{DEPTH['localizer']}/box_curves.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/box_curves.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/box_curves.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("box_curves"),
    script:
        "../scripts/trace_boxes.py"


rule score_localization:
    input:
        unpack(reads("localization")),
    output:
        score=f"{DEPTH['localizer']}/localization.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/localization.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/localization.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("localization"),
    script:
        "../scripts/score_localization.py"


rule score_pxap:
    input:
        unpack(reads("pxap")),
    output:
        score=f"{DEPTH['localizer']}/pxap.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/pxap.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/pxap.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("pxap"),
    script:
        "../scripts/score_pxap.py"


rule score_saliency:
    input:
        unpack(reads("saliency")),
    output:
        score=f"{DEPTH['localizer']}/saliency.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/saliency.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/saliency.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job("saliency"),
    script:
        "../scripts/score_saliency.py"


rule plot_boxes:
    input:
        unpack(reads("boxes")),
    output:
        figure=f"{DEPTH['localizer']}/boxes.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/boxes.{{split}}-{{token}}.figure.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("boxes"),
    script:
        "../scripts/plot_boxes.py"


rule mask_images:
    input:
        unpack(reads("masked_images", ".h5")),
    output:
        masked=f"{DEPTH['localizer']}/masked_images.{{split}}-{{token}}.h5",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/masked_images.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/masked_images.{{split}}-{{token}}.tsv"
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=job("masked_images", ".h5"),
    script:
        "../scripts/mask_images.py"


rule plot_masked:
    input:
        unpack(reads("masked_images", ".png")),
    output:
        figure=f"{DEPTH['localizer']}/masked_images.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/masked_images.{{split}}-{{token}}.figure.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("masked_images", ".png"),
    script:
        "../scripts/plot_masked.py"


rule score_masked:
    input:
        unpack(reads(by_network)),
    output:
        score=f"{DEPTH['localizer']}/masked_{{network}}.{{split}}-{{token}}.json",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/masked_{{network}}.{{split}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/{{dataset}}/{{classifier}}/{{localizer}}/masked_{{network}}.{{split}}-{{token}}.tsv"
    wildcard_constraints:
        network="|".join(["classifier", *NETWORKS]),
    conda:
        "../../envs/camflow.yaml"
    resources:
        gpu=PLAN.gpus,
    params:
        job=job(by_network),
    script:
        "../scripts/score_masked.py"
