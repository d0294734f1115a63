rule tables:
    input:
        METRICS,
    output:
        [report(f"{RENDERED}/{table}.csv", category="Tables", labels={"table": table}, caption=f"../report/{table}.rst")
         for table in TABLES],
        expand(f"{RENDERED}/{{table}}.{{kind}}", table=TABLES, kind=("md", "tex")),
    shell:
        command("tables", *OUT)


rule figures:
    input:
        METRICS,
    output:
        [report(f"{RENDERED}/figures/{figure}.png", category="Figures", labels={"figure": figure},
                caption=f"../report/{figure}.rst")
         for figure in ("samples", "curves", "spectrum")],
        expand(f"{RENDERED}/figures/{{figure}}.pdf", figure=("samples", "curves", "spectrum")),
    shell:
        command("figures", *OUT)
