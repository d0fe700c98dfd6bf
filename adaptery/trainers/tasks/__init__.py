"""What can be learned: answers, label words, a classification head."""
