rule data:
    output:
        f"{RESULTS}/stages/data/{{stage}}/manifest.json",
    shell:
        "{HDBENCH} data {STAGE} --stage data/{wildcards.stage} --threads {threads}"


rule reference:
    input:
        parents("reference"),
    output:
        f"{RESULTS}/stages/reference/{{stage}}/manifest.json",
    shell:
        "{HDBENCH} reference {STAGE} --stage reference/{wildcards.stage} --threads {threads}"
