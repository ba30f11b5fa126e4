"""Small tracks of STS 2017 for tests, as a dict from the file name to the text of the file."""

TRACKS = {
    "STS.en-ar.txt": "two men\tرجلان\t1.4\r\na dog\tكلب\t5",
    "STS.en-en.txt": "a \tb\t0.0\nc\td\n\te\t2\nf\tg\t\nh\u2028i\tj\t2.5\n",
    "STS.es-en.txt": "uno\tone\t4.8\n",
}
