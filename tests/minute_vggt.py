"""The smallest VGGT with all heads that tests train or save: fields of `VGGTConfig`."""

MINUTE = {
    "img_size": 56,
    "embed_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_embed_num_hidden_layers": 1,
    "patch_embed_num_attention_heads": 2,
    "num_register_tokens": 1,
    "dpt_hidden_size": 8,
    "dpt_neck_hidden_sizes": [8, 8, 8, 8],
    "dpt_layer_indices": [0, 0, 1, 1],
    "camera_num_hidden_layers": 1,
    "camera_num_attention_heads": 2,
    "layer_scale_init_value": 1.0,
}
