"""Names of MONAI bundles that fit a labeling app."""

MAINTAINED_BUNDLES = [
    "pancreas_ct_dints_segmentation",
    "prostate_mri_anatomy",
    "renalStructures_UNEST_segmentation",
    "spleen_ct_segmentation",
    "spleen_deepedit_annotation",
    "swin_unetr_btcv_segmentation",
    "wholeBrainSeg_Large_UNEST_segmentation",
    "lung_nodule_ct_detection",
    "wholeBody_ct_segmentation",
    "vista2d",
]
