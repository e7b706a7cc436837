-- The three tables of the paper's export: columns, units and types as published.
CREATE TABLE model_annotations (
    id VARCHAR PRIMARY KEY,               -- Hugging Face "owner/name"; the paper's own models have no owner
    dimension INTEGER,                    -- hidden size
    num_heads INTEGER,
    mlp_ratio DOUBLE,                     -- feed-forward size / hidden size
    layer_norm_type VARCHAR,
    positional_embeddings VARCHAR,
    attention_variant VARCHAR,
    biases VARCHAR,
    block_type VARCHAR,
    activation VARCHAR,
    sequence_length INTEGER,              -- [tokens]
    batch_instances INTEGER,              -- [sequences]
    batch_tokens INTEGER,                 -- [tokens]
    weight_tying BOOLEAN,
    is_instruction_tuned BOOLEAN,
    is_preference_tuned BOOLEAN,
    total_params BIGINT                   -- [parameters]
);
CREATE TABLE dataset_info (
    id VARCHAR PRIMARY KEY,               -- the model's id
    pretraining_summary_total_tokens_billions DOUBLE,  -- [1e9 tokens]
    pretraining_summary_percentage_web DOUBLE,         -- [percent]; web, code, books, reference, academic share 100
    pretraining_summary_percentage_code DOUBLE,
    pretraining_summary_percentage_books DOUBLE,
    pretraining_summary_percentage_reference DOUBLE,
    pretraining_summary_percentage_academic DOUBLE,
    pretraining_summary_percentage_english DOUBLE,     -- [percent], an axis of its own
    metadata JSON
);
CREATE TABLE evaluation_results (
    id VARCHAR,
    benchmark VARCHAR,
    setting VARCHAR,                      -- shots, e.g. "5-shot"
    metric VARCHAR,
    metric_value DOUBLE,                  -- accuracy [0..1], Brier score [0..2], perplexity [1..)
    metric_stderr DOUBLE,
    PRIMARY KEY (id, benchmark, setting, metric)
);
