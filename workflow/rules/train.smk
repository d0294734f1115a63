# Priorities put the longest chain first: everything waits for the teacher, most of the rest for the trajectory stage.
rule classifier:
    input:
        parents("classifier"),
    output:
        f"{RESULTS}/stages/classifier/{{stage}}/manifest.json",
    priority: 10
    shell:
        "{HDBENCH} classifier {STAGE} --stage classifier/{wildcards.stage} --threads {threads}"


rule teacher:
    input:
        parents("teacher"),
    output:
        f"{RESULTS}/stages/teacher/{{stage}}/manifest.json",
    priority: 40
    shell:
        "{HDBENCH} teacher {STAGE} --stage teacher/{wildcards.stage} --threads {threads}"


rule trajectory:
    input:
        parents("trajectory"),
    output:
        f"{RESULTS}/stages/trajectory/{{stage}}/manifest.json",
    priority: 30
    shell:
        "{HDBENCH} trajectory {STAGE} --stage trajectory/{wildcards.stage} --threads {threads}"


rule refine:
    input:
        parents("refine"),
    output:
        f"{RESULTS}/stages/refine/{{stage}}/manifest.json",
    priority: 20
    shell:
        "{HDBENCH} refine {STAGE} --stage refine/{wildcards.stage} --threads {threads}"
