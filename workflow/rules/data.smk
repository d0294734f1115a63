rule data:
    output:
        f"{RESULTS}/stages/data/{{stage}}/manifest.json",
    params:
        arm=arms("data"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("data")


rule text:
    input:
        parents("text"),
    output:
        f"{RESULTS}/stages/text/{{stage}}/manifest.json",
    params:
        arm=arms("text"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("text")


rule reference:
    input:
        parents("reference"),
    output:
        f"{RESULTS}/stages/reference/{{stage}}/manifest.json",
    params:
        arm=arms("reference"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("reference")
