"""The fixed words around what a command says, in each language."""

from __future__ import annotations

import os
from typing import Literal

Language = Literal["en", "ja"]

PHRASES: dict[Language, dict[str, str]] = {
    "en": {
        "error": "error",
        "fix": "what to do",
        "usage-fix": "see `{command} --help`",
        "interrupted": "interrupted; everything finished so far is kept",
        "interrupted-fix": "to go on, run it again: {command}",
        "internal": "something went wrong inside Patchlight: {what}",
        "internal-fix": "the details are in {log}; add --debug to see them here",
        "internal-debug": "the details are above; please report them",
        "valid": "{study} is valid: pack {pack} ({facts} facts), {warnings} warnings",
        "status": "{id}: {title}: {done} of {planned} units done, {failed} failed",
        "no-studies": "no study was begun in this workspace",
        "verdict": "{name}: {kind}: {word} (grade {grade}; {facts} facts, {pairs} pairs)",
        "passport": "The passport is at {file}",
        "report": "The report is at {report}\nTry next:",
        "replicating": "Run {at} of {runs}: {run}",
        "started": "Wrote {folder}. Run it with: patchlight run {study}",
        "fetched": "PubMed finds {found} records; {there} are in {folder}",
        "missing": "{count} records are no longer on the server, such as PMID {named}",
        "prepared": "{kept} of {read} records kept ({parts}); the data card is {card}",
        "pack-new": "Wrote {file}. Fill it in, then: patchlight pack check {file}",
        "pack-checked": "{pack}: {facts} facts, no errors, {warnings} warnings; "
        "{unreviewed} facts wait for a person's review",
        "pack-previewed": "{pack} in {model}: {answered} of {questions} questions answered; "
        "{known} of {facts} facts in two wordings",
        "pack-imported": "Wrote {output}: {facts} facts; {lost} rows left out; {problems} things to look at",
        "pack-suggested": "Wrote {count} suggestions to {output}. Set `status` to accepted or rejected, then: "
        "patchlight pack adopt {output} --into PACK",
        "pack-adopted": "{count} facts entered {pack}",
        "entry": 'The entry holds. To keep it, add to FAMILIES: "{kind}": FAMILIES["{like}"]',
    },
    "ja": {
        "error": "エラー",
        "fix": "対処",
        "usage-fix": "`{command} --help` をご覧ください",
        "interrupted": "中断しました。完了した計算はすべて保存されています",
        "interrupted-fix": "再開するには、もう一度実行してください: {command}",
        "internal": "Patchlight の内部でエラーが起きました: {what}",
        "internal-fix": "詳細は {log} にあります。--debug を付けると画面に表示します",
        "internal-debug": "詳細は上のとおりです。ご報告ください",
        "valid": "{study} に問題はありません: パック {pack} (事実 {facts})、警告 {warnings} 件",
        "status": "{id}: {title}: {planned} 単位中 {done} 完了、失敗 {failed}",
        "no-studies": "このワークスペースではまだ調査が始められていません",
        "verdict": "{name}: {kind}: {word} (証拠の等級 {grade}、知識 {facts} 件、質問 {pairs} 組)",
        "passport": "校正の結果は {file} にあります",
        "report": "レポート: {report}\n次に試せること:",
        "replicating": "実行 {at}/{runs}: {run}",
        "started": "{folder} を作りました。実行するには: patchlight run {study}",
        "fetched": "PubMed で {found} 件見つかり、{there} 件が {folder} にあります",
        "missing": "{count} 件はサーバーから消えています(PMID {named} など)",
        "prepared": "{read} 件中 {kept} 件を残しました({parts})。データカード: {card}",
        "pack-new": "{file} を書きました。書き込んだら: patchlight pack check {file}",
        "pack-checked": "{pack}: 事実 {facts} 件、エラーなし、警告 {warnings} 件、人の確認待ち {unreviewed} 件",
        "pack-previewed": "{pack} を {model} に尋ねました: 質問 {questions} 件中 {answered} 件に正答、"
        "事実 {facts} 件中 {known} 件は二通りの言い方で正答",
        "pack-imported": "{output} を書きました: 事実 {facts} 件、除いた行 {lost} 件、確かめること {problems} 件",
        "pack-suggested": "提案 {count} 件を {output} に書きました。`status` を accepted か rejected にしてから: "
        "patchlight pack adopt {output} --into PACK",
        "pack-adopted": "{pack} に {count} 件の事実を入れました",
        "entry": 'この項目は成り立ちます。残すには FAMILIES に追加してください: "{kind}": FAMILIES["{like}"]',
    },
}


def locale_language() -> Language:
    """Japanese where the environment's locale is Japanese, English anywhere else."""
    names = (os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    chosen = next((name for name in names if name), "")
    return "ja" if chosen.startswith("ja") else "en"
