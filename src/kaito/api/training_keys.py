# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The keys of a training configuration that are the libraries' own: those of the packages that the image trains with.

Written down here because the operator judges a configuration before a node is asked for, and loads none of them. A test
holds the lists against the packages (tests/unit/runtime/tune/test_settings.py).
"""

from __future__ import annotations

from typing import Final

_LORA = """
alora_invocation_tokens alpha_pattern arrow_config auto_mapping base_model_name_or_path bias corda_config
ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode init_lora_weights kasa_config
layer_replication layers_pattern layers_to_transform loftq_config lora_alpha lora_bias lora_dropout lora_ga_config
megatron_config megatron_core modules_to_save monteclora_config peft_type peft_version qalora_group_size r
rank_pattern revision runtime_config target_modules target_parameters task_type trainable_token_indices use_bdlora
use_dora use_qalora use_rslora velora_config
"""
LORA: Final = frozenset(_LORA.split())
"""PEFT's `LoraConfig`."""
_TRAINING = """
accelerator_config activation_offloading adam_beta1 adam_beta2 adam_epsilon assistant_only_loss auto_find_batch_size
average_tokens_across_devices batch_eval_metrics beta bf16 bf16_full_eval chat_template_path completion_only_loss
data_seed dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers
dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor dataset_kwargs dataset_num_proc
dataset_text_field ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph
ddp_timeout debug deepspeed disable_dropout disable_tqdm discopop_tau do_eval do_predict do_train
enable_jit_checkpoint eos_token eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_packing
eval_steps eval_strategy eval_use_gather_object f_alpha_divergence_coef f_divergence_type fp16 fp16_full_eval fsdp
fsdp_config full_determinism gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs
greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token ignore_data_skip
include_for_metrics include_num_input_tokens_seen label_names label_smoothing label_smoothing_factor ld_alpha
learning_rate length_column_name liger_kernel_config load_best_model_at_end local_rank log_level log_level_replica
log_on_each_node logging_first_step logging_nan_inf_filter logging_steps logging_strategy loss_type loss_weights
lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_length max_steps metric_for_best_model model_init_kwargs
neftune_noise_alpha num_train_epochs optim optim_args optim_target_modules output_dir packing packing_strategy
pad_to_multiple_of pad_token padding_free parallelism_config per_device_eval_batch_size per_device_train_batch_size
precompute_ref_batch_size precompute_ref_log_probs prediction_loss_only project push_to_hub ref_model_mixup_alpha
ref_model_sync_steps remove_unused_columns report_to restore_callback_states_from_checkpoint resume_from_checkpoint
router_aux_loss_coef run_name save_on_each_node save_only_model save_steps save_strategy save_total_limit seed
shuffle_dataset skip_memory_metrics sync_ref_model tf32 torch_compile torch_compile_backend torch_compile_mode
torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy
truncation_mode trust_remote_code use_cache use_cpu use_liger_kernel use_weighting warmup_steps weight_decay
"""
TRAINING: Final = frozenset(_TRAINING.split())
"""TRL's `SFTConfig`, and its `DPOConfig` for preferences; both hold the transformers library's `TrainingArguments`."""
_COLLATOR = """
mask_replace_prob mlm mlm_probability pad_to_multiple_of random_replace_prob return_tensors seed tokenizer
whole_word_mask
"""
COLLATOR: Final = frozenset(_COLLATOR.split())
"""The transformers library's collator for language models."""
RENAMED: Final = {
    "evaluation_strategy": "eval_strategy", "max_seq_length": "max_length", "no_cuda": "use_cpu",
    "warmup_ratio": "warmup_steps",
}  # fmt: skip
"""Keys of earlier releases of the trainers, and what they are called now. Fewer than one warm-up step is a share."""
OLD_TRAINING: Final = frozenset({"group_by_length", "logging_dir", "overwrite_output_dir", "save_safetensors",
                                 "use_mps_device"})  # fmt: skip
"""Keys of earlier releases that are heeded otherwise (`group_by_length`) or mean nothing here."""
OLD_COLLATOR: Final = frozenset({"tf_experimental_compile"})
"""The same of the collator."""
PATIENCE: Final = "early_stopping_patience"
"""Ends the training once the loss on what is held back has not improved so many times in a row. Ours."""
THRESHOLD: Final = "early_stopping_threshold"
"""What counts as an improvement. Ours."""
OWN_TRAINING: Final = frozenset({PATIENCE, THRESHOLD})
KNOWN: Final = {"LoraConfig": LORA, "TrainingArguments": TRAINING | RENAMED.keys() | OLD_TRAINING | OWN_TRAINING,
                "DataCollator": COLLATOR | OLD_COLLATOR}  # fmt: skip
"""By section."""
