rule data:
    output:
        f"{RESULTS}/stages/data/{{stage}}/manifest.json",
    params:
        arm=arms("data"),
    shell:
        stage_command("data")


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
