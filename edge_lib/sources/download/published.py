"""Lengths and sha256 sums of archives, as others have published them.

COCO and Karpathy's splits: TensorFlow Datasets, url_checksums/coco_captions.txt. VQAv2: ParlAI,
tasks/vqa_v2/build.py. No sums are published for GQA's, TextVQA's and Visual Genome's archives: a
record in `archives/` holds those that were computed.
"""

COCO = "http://images.cocodataset.org"
VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"

PUBLISHED = {
    f"{COCO}/zips/train2014.zip": (
        13510573713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    ),
    f"{COCO}/zips/val2014.zip": (
        6645013297,
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    ),
    f"{COCO}/zips/train2017.zip": (
        19336861798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    f"{COCO}/zips/val2017.zip": (
        815585330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    f"{COCO}/annotations/annotations_trainval2014.zip": (
        252872794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    ),
    f"{COCO}/annotations/annotations_trainval2017.zip": (
        252907541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    KARPATHY: (36745453, "4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817"),
    f"{VQA}/v2_Questions_Train_mscoco.zip": (
        None,
        "05a64b6e2582d06d7585f5429674a9a33851878be1bff9f8668cdcf792df611e",
    ),
    f"{VQA}/v2_Questions_Val_mscoco.zip": (
        None,
        "e71f6c5c3e97a51d050f28243e262b28cd0c48d11a6b4632d769d30d3f93222a",
    ),
    f"{VQA}/v2_Annotations_Train_mscoco.zip": (
        None,
        "fb101bcefe91422c543c2bb6d70af11eb3119d0ff745ae283d09acdf66250853",
    ),
    f"{VQA}/v2_Annotations_Val_mscoco.zip": (
        None,
        "0caae7c8d1dafd852727f5ac046bc1efca9b72026bd6ffa34fc489f3a7b3291e",
    ),
}
