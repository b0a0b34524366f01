"""The workbench: pages over what a workspace holds, made on the server, without scripts and without the outside.

app.py        create_app(workspace, database_url=None, *, origin=None, judge_first=False) -> FastAPI
access.py     allow(act): who may open a route; sessions, forms, hosts and headers
render.py     Page, view(router, path, act): one function, three addresses (HTML, .json, .csv); page, as_json, as_csv
deciding.py   decision_form(db, person, candidate), may_see_verdict(...): what `_decision_form.html.jinja` draws
jobs.py       Jobs: commands of ours in processes of their own
tries.py      wrong passwords are followed by a wait
errors.py     what is answered where something is refused
pages/        one file for each area, each with a `router`
text/         AREA.en.yaml and AREA.ja.yaml: all words of the pages
"""
