"""The smallest ATMNet that has all of its parts."""

MINI = {
    'depths': [2, 2, 2, 2],
    'channels': [8, 16, 16, 24],
    'mlp_ratios': [2, 2, 2, 2],
    'channels_per_offset': [2, 4, 4, 8],
    'offset_interval': 2,
}
