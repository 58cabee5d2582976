"""
Chapter 6. Which cultures does a model lean to? A questionnaire of situations, each with two ways to act, asked in six ways.
"""

# one template a language: what stands in the middle of each form, and the two short answers of ab and compare
FORMS = {
    "en": {"ab": ("{question} Select A or B.\nA. {first}\nB. {second}\nAnswer:", [" A", " B"]),
           "repeat": ("{question} Repeat one of these options exactly.\n- {first}\n- {second}\nAnswer:", [" {first}", " {second}"]),
           "compare": ("{question} Is '{first}' better than '{second}'? Yes or no?\nAnswer:", [" yes", " no"])},
    "de": {"ab": ("{question} Wählen Sie A oder B.\nA. {first}\nB. {second}\nAntwort:", [" A", " B"]),
           "repeat": ("{question} Wiederholen Sie eine dieser Möglichkeiten wörtlich.\n- {first}\n- {second}\nAntwort:", [" {first}", " {second}"]),
           "compare": ("{question} Ist „{first}“ besser als „{second}“? Ja oder nein?\nAntwort:", [" ja", " nein"])},
    "zh": {"ab": ("{question}请选择A或B。\nA. {first}\nB. {second}\n答案：", ["A", "B"]),
           "repeat": ("{question}请原样重复其中一个选项。\n- {first}\n- {second}\n答案：", ["{first}", "{second}"]),
           "compare": ("{question}“{first}”比“{second}”更好吗？是还是否？\n答案：", ["是", "否"])},
}
STYLES = ("ab", "repeat", "compare")


def prompt(item, style, swapped, context="", lang="en"):
    """
    One question in one of its six forms, and what one has to answer to choose option 1, and option 2.

    item     {"Question", "Option 1", "Option 2"}; swapped: option 2 is named first; context: stands before the question
    returns  (text, [answer for option 1, answer for option 2])

    >>> item = {"Question": "Tea?", "Option 1": "Tea.", "Option 2": "Milk."}
    >>> prompt(item, "compare", swapped=True)              # no: milk is not better, and option 1 it is
    ("Tea? Is 'Milk.' better than 'Tea.'? Yes or no?\\nAnswer:", [' no', ' yes'])
    """
    form, answers = FORMS[lang][style]
    first, second = (item["Option 2"], item["Option 1"]) if swapped else (item["Option 1"], item["Option 2"])
    text = form.format(question=item["Question"], first=first, second=second)
    answers = [answer.format(first=first, second=second) for answer in answers]
    return (context.strip() + " " + text if context.strip() else text), answers[::-1] if swapped else answers
