CREATE TABLE models (
    id VARCHAR NOT NULL CHECK (id <> '' AND regexp_full_match(id, '/?[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*') AND NOT contains(id, '..') AND length(id) <= 200),
    family VARCHAR CHECK (family <> ''),
    parent VARCHAR CHECK (parent <> '' AND regexp_full_match(parent, '/?[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*') AND NOT contains(parent, '..') AND length(parent) <= 200),
    release_date DATE,
    PRIMARY KEY (id)
);
CREATE TABLE model_annotations (
    id VARCHAR NOT NULL,
    dimension INTEGER CHECK (dimension >= 1),
    num_heads INTEGER CHECK (num_heads >= 1),
    mlp_ratio DOUBLE CHECK (isfinite(mlp_ratio) AND mlp_ratio >= 0.01 AND mlp_ratio <= 1000),
    layer_norm_type VARCHAR CHECK (layer_norm_type <> '' AND layer_norm_type IN ('rmsnorm', 'parametric', 'non-parametric')),
    positional_embeddings VARCHAR CHECK (positional_embeddings <> '' AND positional_embeddings IN ('rope', 'alibi', 'learned', 'sinusoidal', 'relative', 'none')),
    attention_variant VARCHAR CHECK (attention_variant <> '' AND attention_variant IN ('full', 'gqa', 'mqa', 'local,full', 'mla')),
    biases VARCHAR CHECK (biases <> '' AND biases IN ('none', 'attn_only', 'ln_only', 'some', 'all')),
    block_type VARCHAR CHECK (block_type <> '' AND block_type IN ('sequential', 'parallel')),
    activation VARCHAR CHECK (activation <> '' AND activation IN ('silu', 'swiglu', 'gelu', 'gelu_new', 'gelu_fast', 'geglu', 'relu', 'relu2')),
    sequence_length INTEGER CHECK (sequence_length >= 1),
    batch_instances INTEGER CHECK (batch_instances >= 1),
    batch_tokens INTEGER CHECK (batch_tokens >= 1),
    weight_tying BOOLEAN,
    is_instruction_tuned BOOLEAN,
    is_preference_tuned BOOLEAN,
    total_params BIGINT CHECK (total_params >= 1),
    embedding_params BIGINT CHECK (embedding_params >= 1),
    num_layers INTEGER CHECK (num_layers >= 1),
    num_kv_heads INTEGER CHECK (num_kv_heads >= 1),
    head_dimension INTEGER CHECK (head_dimension >= 1),
    ffn_dimension INTEGER CHECK (ffn_dimension >= 1),
    vocab_size INTEGER CHECK (vocab_size >= 1),
    num_experts INTEGER CHECK (num_experts >= 1),
    experts_per_token INTEGER CHECK (experts_per_token >= 1),
    PRIMARY KEY (id),
    FOREIGN KEY (id) REFERENCES models (id),
    CHECK (embedding_params <= total_params)
);
CREATE TABLE dataset_info (
    id VARCHAR NOT NULL,
    pretraining_summary_total_tokens_billions DOUBLE CHECK (isfinite(pretraining_summary_total_tokens_billions) AND pretraining_summary_total_tokens_billions >= 1e-06 AND pretraining_summary_total_tokens_billions <= 1000000),
    pretraining_summary_percentage_web DOUBLE CHECK (isfinite(pretraining_summary_percentage_web) AND pretraining_summary_percentage_web >= 0 AND pretraining_summary_percentage_web <= 100),
    pretraining_summary_percentage_code DOUBLE CHECK (isfinite(pretraining_summary_percentage_code) AND pretraining_summary_percentage_code >= 0 AND pretraining_summary_percentage_code <= 100),
    pretraining_summary_percentage_books DOUBLE CHECK (isfinite(pretraining_summary_percentage_books) AND pretraining_summary_percentage_books >= 0 AND pretraining_summary_percentage_books <= 100),
    pretraining_summary_percentage_reference DOUBLE CHECK (isfinite(pretraining_summary_percentage_reference) AND pretraining_summary_percentage_reference >= 0 AND pretraining_summary_percentage_reference <= 100),
    pretraining_summary_percentage_academic DOUBLE CHECK (isfinite(pretraining_summary_percentage_academic) AND pretraining_summary_percentage_academic >= 0 AND pretraining_summary_percentage_academic <= 100),
    pretraining_summary_percentage_english DOUBLE CHECK (isfinite(pretraining_summary_percentage_english) AND pretraining_summary_percentage_english >= 0 AND pretraining_summary_percentage_english <= 100),
    metadata JSON,
    shares_partial BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (id),
    FOREIGN KEY (id) REFERENCES models (id),
    CHECK (shares_partial OR (pretraining_summary_percentage_web IS NULL AND pretraining_summary_percentage_code IS NULL AND pretraining_summary_percentage_books IS NULL AND pretraining_summary_percentage_reference IS NULL AND pretraining_summary_percentage_academic IS NULL) OR coalesce(abs(pretraining_summary_percentage_web + pretraining_summary_percentage_code + pretraining_summary_percentage_books + pretraining_summary_percentage_reference + pretraining_summary_percentage_academic - 100) <= 1.0, false))
);
CREATE TABLE datasets (
    name VARCHAR NOT NULL CHECK (name <> ''),
    total_tokens_billions DOUBLE CHECK (isfinite(total_tokens_billions) AND total_tokens_billions >= 1e-06 AND total_tokens_billions <= 1000000),
    percentage_web DOUBLE CHECK (isfinite(percentage_web) AND percentage_web >= 0 AND percentage_web <= 100),
    percentage_code DOUBLE CHECK (isfinite(percentage_code) AND percentage_code >= 0 AND percentage_code <= 100),
    percentage_books DOUBLE CHECK (isfinite(percentage_books) AND percentage_books >= 0 AND percentage_books <= 100),
    percentage_reference DOUBLE CHECK (isfinite(percentage_reference) AND percentage_reference >= 0 AND percentage_reference <= 100),
    percentage_academic DOUBLE CHECK (isfinite(percentage_academic) AND percentage_academic >= 0 AND percentage_academic <= 100),
    percentage_english DOUBLE CHECK (isfinite(percentage_english) AND percentage_english >= 0 AND percentage_english <= 100),
    shares_partial BOOLEAN NOT NULL DEFAULT false,
    PRIMARY KEY (name),
    CHECK (shares_partial OR (percentage_web IS NULL AND percentage_code IS NULL AND percentage_books IS NULL AND percentage_reference IS NULL AND percentage_academic IS NULL) OR coalesce(abs(percentage_web + percentage_code + percentage_books + percentage_reference + percentage_academic - 100) <= 1.0, false))
);
CREATE TABLE training_stages (
    id VARCHAR NOT NULL,
    stage INTEGER NOT NULL CHECK (stage >= 1 AND stage <= 100),
    name VARCHAR CHECK (name <> ''),
    total_tokens_billions DOUBLE CHECK (isfinite(total_tokens_billions) AND total_tokens_billions >= 1e-06 AND total_tokens_billions <= 1000000),
    batch_instances INTEGER CHECK (batch_instances >= 1),
    batch_tokens INTEGER CHECK (batch_tokens >= 1),
    sequence_length INTEGER CHECK (sequence_length >= 1),
    optimizer VARCHAR CHECK (optimizer <> ''),
    learning_rate DOUBLE CHECK (isfinite(learning_rate) AND learning_rate >= 0 AND learning_rate <= 10),
    learning_rate_min DOUBLE CHECK (isfinite(learning_rate_min) AND learning_rate_min >= 0 AND learning_rate_min <= 10),
    learning_rate_schedule VARCHAR CHECK (learning_rate_schedule <> ''),
    warmup_steps INTEGER CHECK (warmup_steps >= 0),
    weight_decay DOUBLE CHECK (isfinite(weight_decay) AND weight_decay >= 0 AND weight_decay <= 10),
    beta1 DOUBLE CHECK (isfinite(beta1) AND beta1 >= 0 AND beta1 <= 1),
    beta2 DOUBLE CHECK (isfinite(beta2) AND beta2 >= 0 AND beta2 <= 1),
    epsilon DOUBLE CHECK (isfinite(epsilon) AND epsilon >= 0 AND epsilon <= 1),
    gradient_clip DOUBLE CHECK (isfinite(gradient_clip) AND gradient_clip >= 0 AND gradient_clip <= 1000),
    PRIMARY KEY (id, stage),
    FOREIGN KEY (id) REFERENCES models (id)
);
CREATE TABLE stage_datasets (
    id VARCHAR NOT NULL,
    stage INTEGER NOT NULL CHECK (stage >= 1 AND stage <= 100),
    dataset VARCHAR NOT NULL CHECK (dataset <> ''),
    share_pct DOUBLE CHECK (isfinite(share_pct) AND share_pct >= 0 AND share_pct <= 100),
    PRIMARY KEY (id, stage, dataset),
    FOREIGN KEY (id, stage) REFERENCES training_stages (id, stage),
    FOREIGN KEY (dataset) REFERENCES datasets (name)
);
CREATE TABLE evaluation_results (
    id VARCHAR NOT NULL,
    benchmark VARCHAR NOT NULL CHECK (benchmark <> ''),
    setting VARCHAR NOT NULL CHECK (setting <> '' AND regexp_full_match(setting, '[0-9]{1,4}-shot')),
    metric VARCHAR NOT NULL CHECK (metric <> ''),
    metric_value DOUBLE CHECK (isfinite(metric_value)),
    metric_stderr DOUBLE CHECK (isfinite(metric_stderr) AND metric_stderr >= 0),
    task_version VARCHAR NOT NULL CHECK (task_version <> ''),
    prompt VARCHAR NOT NULL CHECK (prompt <> ''),
    shots_assumed BOOLEAN NOT NULL DEFAULT false,
    harness VARCHAR CHECK (harness <> ''),
    harness_version VARCHAR CHECK (harness_version <> ''),
    task_hash VARCHAR CHECK (task_hash <> ''),
    model_dtype VARCHAR CHECK (model_dtype <> ''),
    model_revision VARCHAR CHECK (model_revision <> ''),
    num_samples BIGINT CHECK (num_samples >= 1),
    evaluated_on DATE,
    source VARCHAR CHECK (source <> ''),
    PRIMARY KEY (id, benchmark, setting, metric, task_version, prompt),
    FOREIGN KEY (id) REFERENCES models (id),
    CHECK (CASE metric WHEN 'accuracy' THEN metric_value >= 0.0 AND metric_value <= 1.0 WHEN 'acc_norm' THEN metric_value >= 0.0 AND metric_value <= 1.0 WHEN 'mc1' THEN metric_value >= 0.0 AND metric_value <= 1.0 WHEN 'mc2' THEN metric_value >= 0.0 AND metric_value <= 1.0 WHEN 'top1' THEN metric_value >= 0.0 AND metric_value <= 1.0 WHEN 'brier_score' THEN metric_value >= 0.0 AND metric_value <= 2.0 WHEN 'bits_per_byte' THEN metric_value >= 0.0 WHEN 'loss_nats' THEN metric_value >= 0.0 WHEN 'perplexity' THEN metric_value >= 1.0 ELSE true END)
);
CREATE TABLE model_features (
    id VARCHAR NOT NULL,
    feature VARCHAR NOT NULL CHECK (feature <> ''),
    value DOUBLE CHECK (isfinite(value)),
    source VARCHAR CHECK (source <> ''),
    measured_on DATE,
    PRIMARY KEY (id, feature),
    FOREIGN KEY (id) REFERENCES models (id)
);
CREATE TABLE aliases (
    kind VARCHAR NOT NULL CHECK (kind <> '' AND kind IN ('model', 'benchmark')),
    alias VARCHAR NOT NULL CHECK (alias <> ''),
    name VARCHAR NOT NULL CHECK (name <> ''),
    PRIMARY KEY (kind, alias)
);
CREATE TABLE provenance (
    subject VARCHAR NOT NULL CHECK (subject <> ''),
    row_key VARCHAR NOT NULL CHECK (row_key <> ''),
    field VARCHAR NOT NULL CHECK (field <> ''),
    source VARCHAR NOT NULL CHECK (source <> ''),
    stated_on DATE NOT NULL,
    confidence VARCHAR NOT NULL CHECK (confidence <> '' AND confidence IN ('measured', 'reported', 'inferred')),
    PRIMARY KEY (subject, row_key, field)
);
CREATE TABLE history (
    number BIGINT NOT NULL CHECK (number >= 1),
    subject VARCHAR NOT NULL CHECK (subject <> ''),
    row_key VARCHAR NOT NULL CHECK (row_key <> ''),
    field VARCHAR NOT NULL CHECK (field <> ''),
    old VARCHAR CHECK (old <> ''),
    new VARCHAR CHECK (new <> ''),
    source VARCHAR CHECK (source <> ''),
    replaced_on DATE NOT NULL,
    PRIMARY KEY (number)
);
CREATE TABLE schema_version (
    version INTEGER NOT NULL CHECK (version >= 1),
    PRIMARY KEY (version)
);
