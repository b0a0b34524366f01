"""The workbench: pages over what a workspace holds, made on the server, without scripts and without the outside.

app.py        create_app(workspace, database_url=None, *, origin=None) -> FastAPI
access.py     allow(act): who may open a route; sessions, forms, hosts and headers
render.py     Page, view(router, path, act): one function, three addresses (HTML, .json, .csv); page, as_json, as_csv
pages/        one file for each area, each with a `router`
text/         AREA.en.yaml and AREA.ja.yaml: all words of the pages
"""
