"""Operations with more than one form: a reference, what each platform runs, and the choice."""
