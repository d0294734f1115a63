# One rule for each kind of stage.  Priorities put the longest chain first: most of what follows waits for the trajectory stage.
# The teacher, and whatever it waits for itself, go before all of them: profiles/default.
PRIORITIES = {"classifier": 10, "refine": 20, "trajectory": 30, "pairs": 30}

for KIND in KINDS:

    rule:
        name:
            KIND
        input:
            parents(KIND),
        output:
            f"{RESULTS}/stages/{KIND}/{{stage}}/manifest.json",
        log:
            f"{RESULTS}/logs/{KIND}/{{stage}}.log",
        priority: PRIORITIES.get(KIND, 0)
        resources:
            gpus=GPUS,
        params:
            arm=arms(KIND),
        shell:
            stage_command()
