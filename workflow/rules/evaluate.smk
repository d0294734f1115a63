rule sample:
    input:
        parents("sample"),
    output:
        f"{RESULTS}/stages/sample/{{stage}}/manifest.json",
    params:
        arm=arms("sample"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("sample")


rule evaluate:
    input:
        parents("evaluate"),
    output:
        f"{RESULTS}/stages/evaluate/{{stage}}/manifest.json",
    params:
        arm=arms("evaluate"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("evaluate")


rule collect:
    input:
        sorted({manifest(stage) for stage in PLAN.stages}),
        PLAN.sources,  # a caption, a title or an arm's name is rendered again, and nothing else
    output:
        METRICS,
        report(f"{RESULTS}/{PLAN.name}/environment.csv", category="Environment", caption="../report/environment.rst"),
    shell:
        command("collect")
