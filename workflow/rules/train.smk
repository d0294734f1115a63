# Priorities put the longest chain first: most of what follows waits for the trajectory stage.  The teacher, and whatever it waits
# for itself, go before all of them: profiles/default.
rule classifier:
    input:
        parents("classifier"),
    output:
        f"{RESULTS}/stages/classifier/{{stage}}/manifest.json",
    priority: 10
    params:
        arm=arms("classifier"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("classifier")


rule clip:
    input:
        parents("clip"),
    output:
        f"{RESULTS}/stages/clip/{{stage}}/manifest.json",
    params:
        arm=arms("clip"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("clip")


rule teacher:
    input:
        parents("teacher"),
    output:
        f"{RESULTS}/stages/teacher/{{stage}}/manifest.json",
    params:
        arm=arms("teacher"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("teacher")


rule pairs:
    input:
        parents("pairs"),
    output:
        f"{RESULTS}/stages/pairs/{{stage}}/manifest.json",
    priority: 30
    params:
        arm=arms("pairs"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("pairs")


rule trajectory:
    input:
        parents("trajectory"),
    output:
        f"{RESULTS}/stages/trajectory/{{stage}}/manifest.json",
    priority: 30
    params:
        arm=arms("trajectory"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("trajectory")


rule refine:
    input:
        parents("refine"),
    output:
        f"{RESULTS}/stages/refine/{{stage}}/manifest.json",
    priority: 20
    params:
        arm=arms("refine"),
    resources:
        gpus=GPUS,
    shell:
        stage_command("refine")
