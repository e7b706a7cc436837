-- From the paper's three tables, in the schema `old`, to version 2. Missing has one spelling (NULL, neither -1 nor NaN nor
-- an empty text), and shares that are no whole are marked as partial. Rows keep their order.
INSERT INTO models (id)
SELECT id FROM (
    SELECT id, 1 AS part, rowid AS place FROM old.model_annotations
    UNION ALL SELECT id, 2, rowid FROM old.dataset_info
    UNION ALL SELECT id, 3, rowid FROM old.evaluation_results
) GROUP BY id ORDER BY min((part, place));

INSERT INTO model_annotations (
    id, dimension, num_heads, mlp_ratio, layer_norm_type, positional_embeddings, attention_variant, biases, block_type,
    activation, sequence_length, batch_instances, batch_tokens, weight_tying, is_instruction_tuned, is_preference_tuned,
    total_params
)
SELECT
    id, nullif(dimension, -1), nullif(num_heads, -1), CASE WHEN isfinite(mlp_ratio) AND mlp_ratio <> -1 THEN mlp_ratio END, nullif(layer_norm_type, ''),
    nullif(positional_embeddings, ''), nullif(attention_variant, ''), nullif(biases, ''), nullif(block_type, ''),
    nullif(activation, ''), nullif(sequence_length, -1), nullif(batch_instances, -1), nullif(batch_tokens, -1),
    weight_tying, is_instruction_tuned, is_preference_tuned, nullif(total_params, -1)
FROM old.model_annotations ORDER BY rowid;

INSERT INTO dataset_info
SELECT *, (web + code + books + reference + academic) IS NULL AND coalesce(web, code, books, reference, academic) IS NOT NULL
    OR coalesce(abs(web + code + books + reference + academic - 100) > 1, false)
FROM (
    SELECT
        id,
        CASE WHEN isfinite(pretraining_summary_total_tokens_billions) AND pretraining_summary_total_tokens_billions <> -1 THEN pretraining_summary_total_tokens_billions END AS tokens,
        CASE WHEN isfinite(pretraining_summary_percentage_web) AND pretraining_summary_percentage_web <> -1 THEN pretraining_summary_percentage_web END AS web,
        CASE WHEN isfinite(pretraining_summary_percentage_code) AND pretraining_summary_percentage_code <> -1 THEN pretraining_summary_percentage_code END AS code,
        CASE WHEN isfinite(pretraining_summary_percentage_books) AND pretraining_summary_percentage_books <> -1 THEN pretraining_summary_percentage_books END AS books,
        CASE WHEN isfinite(pretraining_summary_percentage_reference) AND pretraining_summary_percentage_reference <> -1 THEN pretraining_summary_percentage_reference END AS reference,
        CASE WHEN isfinite(pretraining_summary_percentage_academic) AND pretraining_summary_percentage_academic <> -1 THEN pretraining_summary_percentage_academic END AS academic,
        CASE WHEN isfinite(pretraining_summary_percentage_english) AND pretraining_summary_percentage_english <> -1 THEN pretraining_summary_percentage_english END AS english,
        metadata
    FROM old.dataset_info ORDER BY rowid
);

INSERT INTO evaluation_results (id, benchmark, setting, metric, metric_value, metric_stderr, task_version, prompt)
SELECT
    id, benchmark, setting, metric,
    CASE WHEN isfinite(metric_value) THEN metric_value END,
    CASE WHEN isfinite(metric_stderr) THEN metric_stderr END,
    'unrecorded', 'unrecorded'
FROM old.evaluation_results ORDER BY rowid;

INSERT INTO schema_version VALUES (2);
