rule data:
    output:
        f"{RESULTS}/stages/data/{{stage}}/manifest.json",
    shell:
        stage_command("data")


rule reference:
    input:
        parents("reference"),
    output:
        f"{RESULTS}/stages/reference/{{stage}}/manifest.json",
    shell:
        stage_command("reference")
