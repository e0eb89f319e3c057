"""Making recordings: what a telephone does to speech (`channel`), and a voice made by rule (`voice`, `phones`)."""
