"""The names of the published table of free-generation features, in its order."""

_SCALARS = (
    "char_len",
    "const_parse_const_tree_depth_max",
    "const_parse_const_tree_depth_mean",
    "const_parse_const_word_depth_mean",
    "const_parse_const_word_depth_std",
    "const_parse_num_sentences",
    "const_parse_num_words",
    "const_parse_words_per_sent_mean",
    "const_parse_words_per_sent_std",
    "content_function_ratio",
    "dep_parse_dep_head_dist_90p",
    "dep_parse_dep_head_dist_max",
    "dep_parse_dep_head_dist_median",
    "dep_parse_dep_root_dist_max",
    "dep_parse_dep_root_dist_mean",
    "dep_parse_dep_root_dist_median",
    "domain_academic_pct",
    "domain_books_pct",
    "domain_code_pct",
    "domain_reference_pct",
    "domain_specific_datasets_pct",
    "domain_web_pct",
    "edu_classifier",
    "entropy",
    "num_tokens",
    "pct_english",
    "ttr",
    "unique_tokens",
)
_RATIOS = (
    "question_words_ratio",
    "imperative_verbs_ratio",
    "conjunctions_ratio",
    "instructions_words_ratio",
    "numbers_ratio",
)

# 61 columns beside ``id``. Source: the paper's free-generation table of 2025-03-03.
PUBLISHED = (*(f"{name}_mean" for name in _SCALARS), *(f"{name}_std" for name in _SCALARS), *_RATIOS)
