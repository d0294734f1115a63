rule tables:
    input:
        METRICS,
    output:
        [report(f"{RENDERED}/{table}.html", category="Tables", labels={"table": table}, caption=caption(table))
         for table in TABLES],
        expand(f"{RENDERED}/{{table}}.{{kind}}", table=TABLES, kind=("csv", "md", "tex")),
    shell:
        command("tables", *OUT)


rule theory:
    input:
        config["theory"],
    output:
        f"{RESULTS}/theory/metrics.csv",
        expand(f"{config['tables']}/theory/{{name}}", name=("metrics.csv", "theory.csv", "theory.md", "theory.pdf")),
        report(f"{config['tables']}/theory/theory.png", category="Figures", labels={"figure": "theory"},
               caption="../report/theory.rst"),
    shell:
        shlex.join([*HDBENCH, "theory", "--config", config["theory"], "--results", RESULTS, *OUT])


rule probes:  # no part of all_ablations: `snakemake probes --config suite=local_flaws`
    input:
        config["probes"],
        probe_teachers,
    output:
        f"{RESULTS}/probes/metrics.csv",
        expand(f"{config['tables']}/probes/{{name}}", name=("metrics.csv", "probes.csv", "differences.csv", "probes.md",
                                                            "crossover.pdf", "weights.pdf")),
        [report(f"{config['tables']}/probes/{figure}.png", category="Figures", labels={"figure": f"probes, {figure}"},
                caption="../report/probes.rst")
         for figure in ("crossover", "weights")],
    shell:
        shlex.join([*HDBENCH, "probes", "--config", config["probes"], "--results", RESULTS, *OUT])


rule claims:
    input:
        METRICS,
        f"{RESULTS}/theory/metrics.csv",
        rules="workflow/claims.yaml",
    output:
        report(f"{RENDERED}/claims.html", category="Claims", caption="../report/claims.rst"),
        expand(f"{RENDERED}/claims.{{kind}}", kind=("csv", "md", "tex")),
    shell:
        command("claims", *OUT)


rule figures:
    input:
        METRICS,
    output:
        [report(f"{RENDERED}/figures/{figure}.png", category="Figures", labels={"figure": figure},
                caption=caption(figure))
         for figure in FIGURES],
        expand(f"{RENDERED}/figures/{{figure}}.pdf", figure=FIGURES),
    shell:
        command("figures", *OUT)
