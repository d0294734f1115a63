rule sample:
    input:
        parents("sample"),
    output:
        f"{RESULTS}/stages/sample/{{stage}}/manifest.json",
    shell:
        "{HDBENCH} sample {STAGE} --stage sample/{wildcards.stage} --threads {threads}"


rule evaluate:
    input:
        parents("evaluate"),
    output:
        f"{RESULTS}/stages/evaluate/{{stage}}/manifest.json",
    shell:
        "{HDBENCH} evaluate {STAGE} --stage evaluate/{wildcards.stage} --threads {threads}"


rule collect:
    input:
        sorted({manifest(stage) for stage in PLAN.stages}),
    output:
        METRICS,
    shell:
        "{HDBENCH} collect --suite {SUITE} --results {RESULTS}"
