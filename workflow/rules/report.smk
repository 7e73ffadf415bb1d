# What people look at: figures, and the readable view of every result.


rule plot_pictures:
    input:
        unpack(reads("pictures")),
    output:
        figure=f"{DEPTH['dataset']}/pictures.{{split}}-{{token}}.png",
    params:
        job=job("pictures"),
    log:
        f"{LOGS}/{{dataset}}/pictures.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/plot_pictures.py"


rule plot_training:
    input:
        unpack(reads("training", ".png")),
    output:
        figure=f"{DEPTH['classifier']}/training-{{token}}.png",
    params:
        job=job("training", ".png"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/training-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/plot_training.py"


rule plot_curve:
    input:
        unpack(reads("curve")),
    output:
        figure=f"{DEPTH['localizer']}/curve.{{split}}-{{token}}.png",
    params:
        job=job("curve"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/curve.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/plot_curve.py"


rule plot_seeds:
    input:
        unpack(reads("overlays")),
    output:
        figure=f"{DEPTH['localizer']}/overlays.{{split}}-{{token}}.png",
    params:
        job=job("overlays"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/overlays.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/plot_overlays.py"


rule plot_masks:
    input:
        unpack(reads("overlays")),
    output:
        figure=f"{DEPTH['refiner']}/overlays.{{split}}-{{token}}.png",
    params:
        job=job("overlays"),
    log:
        f"{LOGS}/{{dataset}}/{{classifier}}/{{localizer}}/{{refiner}}/overlays.{{split}}-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    script:
        "../scripts/plot_overlays.py"


# --- readable views: results/<recipe>/<file> is a link to the file in the store ---------------------------------------


@plainly
def viewed(wildcards):
    """The stored file behind a readable path."""
    return ancient(PLAN.path_of(f"{wildcards.readable}"))


@plainly
def source(wildcards):
    """What the link holds."""
    return views.source(PLAN, f"{wildcards.readable}")


def caption_labels(wildcards):
    """Labels of a figure in the report's menu."""
    *steps, filename = wildcards.readable.split("/")
    shown = dict(zip(KINDS[1:], steps[1:]))
    return {"figure": filename.split(".")[0], "split": (filename.split(".") + ["-"])[1], **shown}


NOT_RECIPES = r"(?!(?:store|data|logs|benchmarks|scratch|fingerprints|tables)/)"


localrules:
    view,
    view_figure,
    view_table,


rule view:
    input:
        viewed,
    output:
        "results/{readable}",
    params:
        source=source,
    log:
        f"{LOGS}/views/{{readable}}.log",
    wildcard_constraints:
        readable=rf"{NOT_RECIPES}.+\.(?!png$)[a-z0-9]+",
    shell:
        "ln -sfn {params.source:q} {output:q} 2> {log:q}"


rule view_figure:
    input:
        viewed,
    output:
        report(
            "results/{readable}",
            caption="../report/figure.rst",
            category=lambda wildcards: wildcards.readable.split("/")[0],
            subcategory=lambda wildcards: "/".join(wildcards.readable.split("/")[1:-1]) or "photos",
            labels=caption_labels,
        ),
    params:
        source=source,
    log:
        f"{LOGS}/views/{{readable}}.log",
    wildcard_constraints:
        readable=rf"{NOT_RECIPES}.+\.png",
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
            labels=lambda wildcards: {"table": Path(wildcards.readable).name},
        ),
    params:
        source=source,
    log:
        f"{LOGS}/views/{{readable}}.log",
    wildcard_constraints:
        readable=r"tables/[a-z_]+\.(?:csv|md|html)",
    shell:
        "ln -sfn {params.source:q} {output:q} 2> {log:q}"
