"""Names of splits: a source's own, and prefixes for the other tables of an experiment."""

SPLITS = ("train", "val", "test")
QUESTIONS = "qa-"  # qa-train: the questions that data.questions describes
CONVERSATIONS = "chat-"  # chat-train: the conversations that data.conversations describes
DEGRADED = "degraded-"  # degraded-train: the same rows with damaged inputs, where a source has them
