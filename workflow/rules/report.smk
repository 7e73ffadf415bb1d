# What people look at: figures, and the readable view of every result.


rule plot_pictures:
    input:
        unpack(reads("pictures")),
    output:
        figure=f"{DEPTH['dataset']}/pictures.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/pictures.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("pictures"),
    script:
        "../scripts/plot_pictures.py"


rule plot_training:
    input:
        unpack(reads("training", ".png")),
    output:
        figure=f"{DEPTH['classifier']}/training-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/training-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("training", ".png"),
    script:
        "../scripts/plot_training.py"


rule plot_training_refiner:
    input:
        unpack(reads("training", ".png")),
    output:
        figure=f"{DEPTH['refiner']}/training-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/training-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("training", ".png"),
    script:
        "../scripts/plot_training.py"


rule plot_training_segmenter:
    input:
        unpack(reads("training", ".png")),
    output:
        figure=f"{DEPTH['segmenter']}/training-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/training-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("training", ".png"),
    script:
        "../scripts/plot_training.py"


rule plot_curve:
    input:
        unpack(reads("curve")),
    output:
        figure=f"{DEPTH['localizer']}/curve.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/curve.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("curve"),
    script:
        "../scripts/plot_curve.py"


rule plot_seeds:
    input:
        unpack(reads("overlays")),
    output:
        figure=f"{DEPTH['localizer']}/overlays.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/overlays.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("overlays"),
    script:
        "../scripts/plot_overlays.py"


rule plot_masks:
    input:
        unpack(reads("overlays")),
    output:
        figure=f"{DEPTH['refiner']}/overlays.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/overlays.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("overlays"),
    script:
        "../scripts/plot_overlays.py"


rule plot_predictions:
    input:
        unpack(reads("overlays")),
    output:
        figure=f"{DEPTH['segmenter']}/overlays.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/{{segmenter}}/overlays.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("overlays"),
    script:
        "../scripts/plot_overlays.py"


rule plot_errors:
    input:
        unpack(reads("errors", ".png")),
    output:
        figure=f"{DEPTH['localizer']}/errors.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/errors.{{split}}-{{token}}.figure.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("errors", ".png"),
    script:
        "../scripts/plot_errors.py"


rule plot_rounds:
    input:
        unpack(reads("rounds")),
    output:
        figure=f"{DEPTH['localizer']}/rounds.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/rounds.{{split}}-{{token}}.figure.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("rounds"),
    script:
        "../scripts/plot_rounds.py"


rule plot_comparison:
    input:
        unpack(reads("comparison")),
    output:
        figure=f"{DEPTH['classifier']}/comparison.{{split}}-{{token}}.png",
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/comparison.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=job("comparison"),
    script:
        "../scripts/plot_comparison.py"


# Made in less time than a job needs to start, so they do not go to a cluster: links, and indices of shards.
localrules:
    view,
    view_figure,
    view_table,
    join_maps,
    join_erased,
    join_irn_labels,
    join_irn_edges,
    join_psa_scores,
    join_psa_affinities,
    join_deeplab_logits,
    join_psl_logits,
    join_cct_logits,


rule view:
    input:
        viewed,
    output:
        "results/{readable}",
    log:
        f"{LOGS}/views/{{readable}}.log",
    wildcard_constraints:
        readable=rf"{NOT_RECIPES}.+\.(?!(?:png|csv)$)[a-z0-9]+",
    conda:
        "../../envs/camflow.yaml"
    params:
        source=source,
    shell:
        "ln -sfn {params.source:q} {output:q} 2> {log:q}"


rule view_figure:
    input:
        viewed,
    output:
        report(
            "results/{readable}",
            caption="../report/figure.rst",
            category=dataset_of,
            subcategory=topic,
            labels=caption_labels,
        ),
    log:
        f"{LOGS}/views/{{readable}}.log",
    wildcard_constraints:
        readable=rf"{NOT_RECIPES}.+\.(?:png|csv)",
    conda:
        "../../envs/camflow.yaml"
    params:
        source=source,
    shell:
        "ln -sfn {params.source:q} {output:q} 2> {log:q}"


rule view_table:
    input:
        viewed,
    output:
        report(
            "results/{readable}",
            caption="../report/table.rst",
            category="Tables",
            labels=caption_labels,
        ),
    log:
        f"{LOGS}/views/{{readable}}.log",
    wildcard_constraints:
        readable=r"tables/[a-z_]+\.(?:csv|md|html)",
    conda:
        "../../envs/camflow.yaml"
    params:
        source=source,
    shell:
        "ln -sfn {params.source:q} {output:q} 2> {log:q}"
