rule tables:
    input:
        METRICS,
    output:
        [report(f"{RENDERED}/{table}.csv", category="Tables", labels={"table": table}, caption=f"../report/{table}.rst")
         for table in TABLES],
        expand(f"{RENDERED}/{{table}}.{{kind}}", table=TABLES, kind=("md", "tex")),
    shell:
        command("tables", *OUT)


rule claims:
    input:
        METRICS,
        rules="workflow/claims.yaml",
    output:
        report(f"{RENDERED}/claims.csv", category="Claims", caption="../report/claims.rst"),
        expand(f"{RENDERED}/claims.{{kind}}", kind=("md", "tex")),
    shell:
        command("claims", *OUT)


rule figures:
    input:
        METRICS,
    output:
        [report(f"{RENDERED}/figures/{figure}.png", category="Figures", labels={"figure": figure},
                caption=f"../report/{figure}.rst")
         for figure in FIGURES],
        expand(f"{RENDERED}/figures/{{figure}}.pdf", figure=FIGURES),
    shell:
        command("figures", *OUT)
