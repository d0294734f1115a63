rule collect:
    input:
        sorted({manifest(stage) for stage in PLAN.stages}),
        PLAN.sources,  # a caption, a title or an arm's name is rendered again, and nothing else
    output:
        METRICS,
        report(
            f"{FOLDER}/environment.csv",
            category="Environment",
            caption="../report/environment.rst",
        ),
    log:
        f"{LOGS}/collect.log",
    shell:
        command("collect", *SUITE)


rule tables:
    input:
        METRICS,
    output:
        [
            report(
                f"{FOLDER}/tables/{table}.html",
                category="Tables",
                labels={"table": table},
                caption=caption(table),
            )
            for table in TABLES
        ],
        expand(f"{FOLDER}/tables/{{table}}.{{kind}}", table=TABLES, kind=("csv", "md", "tex")),
    log:
        f"{LOGS}/tables.log",
    shell:
        command("tables", *SUITE)


rule theory:
    input:
        config["theory"],
    output:
        expand(
            f"{RESULTS}/theory/{{name}}",
            name=("metrics.csv", "theory.csv", "theory.md"),
        ),
        report(
            f"{RESULTS}/theory/theory.png",
            category="Figures",
            labels={"figure": "theory"},
            caption="../report/theory.rst",
        ),
    log:
        f"{RESULTS}/logs/theory.log",
    shell:
        command("theory", "--config", config["theory"], "--results", RESULTS)


rule flops:
    input:
        config["flops"],
    output:
        expand(
            f"{RESULTS}/flops/{{name}}", name=("metrics.csv", "flops.csv", "flops.md", "flops.tex")
        ),
        report(
            f"{RESULTS}/flops/flops.html",
            category="Tables",
            labels={"table": "flops"},
            caption="../report/flops.rst",
        ),
    log:
        f"{RESULTS}/logs/flops.log",
    shell:
        command("flops", "--config", config["flops"], "--results", RESULTS)


rule probes:  # no part of all_ablations: `snakemake probes --config suite=local_flaws`
    input:
        config["probes"],
        probe_teachers,
    output:
        expand(
            f"{RESULTS}/probes/{{name}}",
            name=(
                "metrics.csv",
                "probes.csv",
                "differences.csv",
                "probes.md",
            ),
        ),
        [
            report(
                f"{RESULTS}/probes/{figure}.png",
                category="Figures",
                labels={"figure": f"probes, {figure}"},
                caption="../report/probes.rst",
            )
            for figure in ("crossover", "weights")
        ],
    log:
        f"{RESULTS}/logs/probes.log",
    shell:
        command("probes", "--config", config["probes"], "--results", RESULTS)


rule claims:
    input:
        METRICS,
        THEORY,
        COUNTS,
        rules="workflow/claims.yaml",
        prereg=[str(path) for path in (REGISTRATIONS / f"{PLAN.name}.yaml",) if path.is_file()],
    output:
        report(f"{FOLDER}/tables/claims.html", category="Claims", caption="../report/claims.rst"),
        expand(f"{FOLDER}/tables/claims.{{kind}}", kind=("csv", "md", "tex")),
    log:
        f"{LOGS}/claims.log",
    shell:
        command("claims", *SUITE)


rule figures:
    input:
        METRICS,
    output:
        [
            report(
                f"{FOLDER}/figures/{figure}.html",
                category="Figures",
                labels={"figure": figure},
                caption=caption(figure),
            )
            for figure in FIGURES
        ],
        expand(f"{FOLDER}/figures/{{figure}}.png", figure=FIGURES),
    log:
        f"{LOGS}/figures.log",
    shell:
        command("figures", *SUITE)
