# The published tables of config/papers beside what this config measures, a target each: table_advcam_1, figure_advcam_3.


rule make_paper_table:
    input:
        paper_scores,
    output:
        csv=f"{STORE}/papers/{{paper}}/{{table}}-{{token}}.csv",
        markdown=f"{STORE}/papers/{{paper}}/{{table}}-{{token}}.md",
        latex=f"{STORE}/papers/{{paper}}/{{table}}-{{token}}.tex",
    log:
        f"{LOGS}/papers/{{paper}}/{{table}}-{{token}}.log",
    wildcard_constraints:
        paper="[a-z0-9]+",
        table="[a-z0-9_]+",
    conda:
        "../../envs/camflow.yaml"
    params:
        job=paper_job,
    script:
        "../scripts/make_paper_table.py"


localrules:
    view_paper_table,


rule view_paper_table:
    input:
        paper_files,
    output:
        report(
            expand("results/papers/{{paper}}/{{table}}.{form}", form=("csv", "md", "tex")),
            caption="../report/paper.rst",
            category="Papers",
            subcategory="{paper}",
            labels=paper_labels,
        ),
    log:
        f"{LOGS}/views/papers/{{paper}}/{{table}}.log",
    wildcard_constraints:
        paper="[a-z0-9]+",
        table="[a-z0-9_]+",
    conda:
        "../../envs/camflow.yaml"
    params:
        source=paper_source,
    shell:
        "for form in csv md tex; do ln -sfn {params.source:q}.$form results/papers/{wildcards.paper}/{wildcards.table}.$form; "
        "done 2> {log:q}"


for _name, _files in PLAN.papers.targets().items():

    rule:
        name:
            _name
        input:
            _files,


rule papers:
    input:
        sorted({path for files in PLAN.papers.targets().values() for path in files}),
