# The gallery: a static page that compares recipes image by image, one a dataset, and the list of them.


rule make_gallery:
    input:
        unpack(gallery_inputs),
    output:
        page=f"{STORE}/gallery/{{shown}}-{{token}}/index.html",
    log:
        f"{LOGS}/gallery/{{shown}}-{{token}}.log",
    benchmark:
        f"{BENCHMARKS}/gallery/{{shown}}-{{token}}.tsv"
    wildcard_constraints:
        shown="[A-Za-z][A-Za-z0-9_.]*",
    conda:
        "../../envs/camflow.yaml"
    threads: PLAN.config["runtime"]["jobs"]
    params:
        job=gallery_job,
    script:
        "../scripts/make_gallery.py"


rule list_galleries:
    input:
        lambda wildcards: [ancient(PLAN.path_of(path)) for path in GALLERIES if path != galleries.LIST],
    output:
        page=f"{STORE}/gallery/index-{{token}}.html",
    log:
        f"{LOGS}/gallery/index-{{token}}.log",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=gallery_job,
    script:
        "../scripts/list_galleries.py"


localrules:
    list_galleries,
    view_gallery,
    view_list,


# The files first: where the page is linked, so are they.
rule view_gallery:
    input:
        viewed,
    output:
        "results/{readable}",
    log:
        f"{LOGS}/views/{{readable}}.log",
    wildcard_constraints:
        readable=r"gallery/[A-Za-z][A-Za-z0-9_.]*/index\.html",
    conda:
        "../../envs/camflow.yaml"
    params:
        source=source,
        files=lambda wildcards: os.path.join(os.path.dirname(source(wildcards)), "files"),
    shell:
        """
        folder=$(dirname {output:q})
        {{ rm -rf "$folder/files" && ln -s {params.files:q} "$folder/files" && ln -sfn {params.source:q} {output:q}; }} 2>{log:q}
        """


rule view_list:
    input:
        viewed,
        [ancient(f"results/{path}") for path in GALLERIES if path != galleries.LIST],
    output:
        report(
            "results/{readable}",
            caption="../report/gallery.rst",
            category="Gallery",
            labels={"what": "list of galleries"},
        ),
    log:
        f"{LOGS}/views/{{readable}}.log",
    wildcard_constraints:
        readable=r"gallery/index\.html",
    conda:
        "../../envs/camflow.yaml"
    params:
        source=source,
    shell:
        "ln -sfn {params.source:q} {output:q} 2> {log:q}"
